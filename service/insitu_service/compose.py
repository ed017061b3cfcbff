"""The composition root: makes every part of the service and wires them, once.

Order matters where something can fail: what the operator may have got wrong (ports, model,
checkpoints) comes before anything runs.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import zmq

from insitu.checkpoint import SnapshotBuffers, list_checkpoints
from insitu.config import Config, read_clients
from insitu.evaluation import EvaluationMatrix, Prequential, ProbeSets, read_probe_file
from insitu.objectives.base import Objective
from insitu.stream.buffer import StreamBuffer
from insitu.stream.inlet import Inlet
from insitu.stream.transfer import Transfer
from insitu.trainer import Trainer
from insitu_service.acknowledger import Acknowledger
from insitu_service.allow_list import AllowList
from insitu_service.beat import Beat
from insitu_service.building import build_buffer, build_trainer, choose_device
from insitu_service.checkpoint_writer import CheckpointCounters, CheckpointWriter
from insitu_service.commands import CommandQueue
from insitu_service.connection_watch import ConnectionWatch
from insitu_service.data_path import DataPath
from insitu_service.door import Door
from insitu_service.endpoints import SocketTerms, bind_router
from insitu_service.examiner import Examiner
from insitu_service.gatekeeper import Gatekeeper
from insitu_service.generators import part_generator
from insitu_service.greeting import Terms
from insitu_service.heap import keep_freed_memory
from insitu_service.hook_actions import Action, CallFunction, PostJson, RunCommand
from insitu_service.hook_runner import Hook, HookRunner
from insitu_service.ingest import Ingest, Outbox
from insitu_service.intake import Intake
from insitu_service.learner import Learner
from insitu_service.lobby import Lobby
from insitu_service.logged import RECORD, LogHooks, LogParts, ack_level, open_log
from insitu_service.memories import count_checkpoints
from insitu_service.probe_inbox import ProbeInbox
from insitu_service.rate_limit import PeerRateLimits
from insitu_service.reception import Reception
from insitu_service.recorder import Recorder
from insitu_service.secrecy import Secrets
from insitu_service.session import Sessions
from insitu_service.strangers import Strangers
from insitu_service.tally import Tally

_log = logging.getLogger("insitu.compose")

NO_SECRETS = Secrets()
#: a worker that has not come by for this long is stuck; a step may take a while
_STUCK_SECONDS = 300.0


@dataclass(frozen=True)
class Service:
    """All parts of a running service, for those who look at it."""

    config: Config
    device: torch.device
    buffer: StreamBuffer
    trainer: Trainer
    intake: Intake
    allow_list: AllowList | None
    tally: Tally
    sessions: Sessions
    examiner: Examiner
    recorder: Recorder
    door: Door
    writer: CheckpointWriter | None
    hooks: HookRunner
    commands: CommandQueue
    ingest: Ingest
    learner: Learner
    beats: tuple[Beat, ...]
    resumed_from: Path | None
    inlet: Inlet
    log: LogParts | None
    resumed_samples: int
    resumed_dropped: int


def compose(
    config: Config, context: zmq.Context[Any], *, resume: bool, secrets: Secrets = NO_SECRETS
) -> Service:
    """Make the service; binds the stream's endpoints, loads the checkpoint, starts no worker."""
    keep_freed_memory()
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    device = choose_device(config.trainer.device)
    trainer = build_trainer(config, device)
    buffer = build_buffer(config, device)
    tally, intake, inbox = Tally(), Intake(), ProbeInbox()
    examiner = _examiner(config, buffer, trainer, inbox)
    hooks = HookRunner(_hooks(config), {"service": config.service.name})
    log_hooks = LogHooks()
    writer, recorder = _recording(config, buffer, trainer, examiner, hooks, tally, log_hooks)
    count_checkpoints(trainer, writer)
    resumed_from = _restore(config, recorder) if resume else None
    if resumed_from is not None:
        _log.info("resumed from %s at step %d", resumed_from, trainer.steps)
    _take_probe_files(config, trainer, examiner)
    inlet, log = _inlet(config, buffer, inbox, log_hooks, resumed=resume)
    fill = buffer.snapshot()
    commands = CommandQueue(on_post=buffer.interrupt)
    sessions = Sessions()
    door = _door(config, trainer.objective)
    curve = config.stream.curve
    allow_list = None if curve is None else AllowList(read_clients(curve.clients_file))
    ingest = compose_ingest(config, context, inlet, sessions, door, intake, allow_list, secrets)
    buffer.on_room = ingest.wake
    if log is not None:
        log.syncer.on_synced = ingest.wake
    learner = Learner(
        buffer,
        trainer,
        examiner,
        recorder,
        commands,
        hooks,
        ingest.drain,
        tally,
        transfer=Transfer(buffer.schema, device),
        batch_size=config.trainer.batch_size,
        drain_seconds=config.service.drain_seconds,
        drain_on_stop=config.service.drain_on_stop,
        evaluate_every_steps=config.evaluation.every_steps,
        most_skipped_steps=config.trainer.most_skipped_steps,
        beat=(learner_beat := Beat(_STUCK_SECONDS)),
        backlog_samples=lambda: inlet.backlog_samples,
    )
    return Service(
        config, device, buffer, trainer, intake, allow_list, tally, sessions, examiner, recorder,
        door, writer, hooks, commands, ingest, learner, (ingest.beat, learner_beat), resumed_from,
        inlet, log, fill.unseen_samples + inlet.backlog_samples, fill.dropped,
    )  # fmt: skip


def _examiner(
    config: Config, buffer: StreamBuffer, trainer: Trainer, inbox: ProbeInbox
) -> Examiner:
    probes = ProbeSets(
        config.evaluation.probe_samples_per_task, part_generator(config.trainer.seed, "probes")
    )
    metric, higher_is_better = trainer.objective.headline
    matrix = EvaluationMatrix(metric, higher_is_better=higher_is_better)
    prequential = Prequential(
        metric,
        window_steps=config.evaluation.window_steps,
        score_every_steps=config.evaluation.score_every_steps,
    )
    return Examiner(
        probes, matrix, inbox, buffer.task_index, buffer.task_names, trainer.segments, prequential
    )


def _restore(config: Config, recorder: Recorder) -> Path | None:
    """Load the newest checkpoint; a log that goes back to the start of the stream needs none."""
    if config.log.directory is not None and not list_checkpoints(_checkpoints(config)):
        return None
    return recorder.restore()


def _checkpoints(config: Config) -> Path:
    assert config.checkpoint.directory is not None, "a log goes with checkpoints, by a rule"
    return config.checkpoint.directory


def _inlet(
    config: Config, buffer: StreamBuffer, inbox: ProbeInbox, log_hooks: LogHooks, *, resumed: bool
) -> tuple[Inlet, LogParts | None]:
    """The way into the stream: through the log, where there is one."""
    if config.log.directory is None:
        return Inlet(buffer, inbox.take), None
    batch_size = config.trainer.batch_size
    log = open_log(
        config.log,
        config.log.directory,
        _checkpoints(config),
        buffer,
        inbox.take,
        resumed=resumed,
        batch_size=batch_size,
        max_batch_bytes=max_batch_bytes(config, buffer.largest_reservation(batch_size)),
    )
    log_hooks.before_write = log.syncer.sync
    log_hooks.after_write = log.retention.look
    return log.inlet, log


def _take_probe_files(config: Config, trainer: Trainer, examiner: Examiner) -> None:
    bounds = _bounds(config, trainer.objective)
    for task, path in config.evaluation.probe_files.items():
        examiner.take_file(task, read_probe_file(path, config.stream.as_schema(), bounds))


def _recording(
    config: Config,
    buffer: StreamBuffer,
    trainer: Trainer,
    examiner: Examiner,
    hooks: HookRunner,
    tally: Tally,
    log_hooks: LogHooks,
) -> tuple[CheckpointWriter | None, Recorder]:
    section, writer = config.checkpoint, None
    if section.directory is not None:

        def done(path: Path, step: int, counters: CheckpointCounters) -> None:
            payload = {
                "path": str(path),
                "step": step,
                "duration_seconds": counters.last_duration_seconds,
                "size_bytes": counters.last_size_bytes,
            }
            hooks.emit("checkpoint", payload)
            log_hooks.after_write()

        def failed(step: int, error: Exception) -> None:
            tally.alerts["checkpoint_failed"] += 1
            hooks.emit("alert", {"kind": "checkpoint_failed", "text": str(error), "step": step})

        writer = CheckpointWriter(
            section.directory, section.keep, done, failed,
            before_write=lambda: log_hooks.before_write(),
        )  # fmt: skip
    recorder = Recorder(
        {"trainer": trainer, "buffer": buffer, "examiner": examiner},
        section.directory,
        writer,
        SnapshotBuffers(),
        every_steps=section.every_steps,
        every_seconds=section.every_seconds,
        on_stop=section.on_stop,
        retain_start=config.trainer.non_finite == "rollback",
        describe=lambda state: {RECORD: state["buffer"]["log"]["record"]},
    )
    return writer, recorder


def compose_ingest(
    config: Config,
    context: zmq.Context[Any],
    inlet: Inlet,
    sessions: Sessions,
    door: Door,
    intake: Intake,
    allow_list: AllowList | None = None,
    secrets: Secrets = NO_SECRETS,
) -> Ingest:
    stream, when_full = config.stream, config.buffer.when_full
    schema = stream.as_schema()
    terms = Terms(
        schema,
        frozenset(stream.names),
        secrets.stream_token,
        stream.max_producers,
        MAX_FRAGMENT_BYTES,
        max_batch_bytes(config, inlet.largest_reservation(config.trainer.batch_size)),
        when_full,
        allow_list,
        ack_level=ack_level(config.log),
    )
    gatekeeper = Gatekeeper(
        context, allow_list,
        handshakes_per_second=stream.max_handshakes_per_second, intake=intake,
    )  # fmt: skip
    asked = SocketTerms(
        secrets.secret_key,
        stream.max_message_bytes,
        stream.max_queued_messages,
        stream.greeting_seconds,
    )
    router, endpoints = bind_router(context, stream.endpoints, asked)
    send = Outbox(router, intake).send
    acknowledger = Acknowledger(
        sessions, inlet, send, row_bytes=schema.row_bytes, always_room=when_full != "block"
    )
    lobby = Lobby(
        sessions, inlet, terms, acknowledger, intake, send,
        timeout_seconds=stream.session_timeout_seconds,
        greetings=PeerRateLimits(stream.max_hellos_per_second, 2 * stream.max_connections),
    )  # fmt: skip
    data_path = DataPath(
        inlet, door, acknowledger, intake, send,
        drops_newest=when_full == "drop_newest",
    )  # fmt: skip
    reception = Reception(sessions, lobby, data_path, acknowledger, intake, send)
    strangers = Strangers(
        most=stream.max_connections, greeting_seconds=stream.greeting_seconds,
        most_bytes=stream.max_stranger_bytes,
    )  # fmt: skip
    watch = ConnectionWatch(
        router, sessions, intake, strangers, max_message_bytes=stream.max_message_bytes
    )
    return Ingest(router, reception, inlet, watch, gatekeeper, endpoints, beat=Beat(_STUCK_SECONDS))


#: the optimum of throughput over tcp and ipc; larger frames let heartbeats starve
MAX_FRAGMENT_BYTES = 1 << 20


def max_batch_bytes(config: Config, largest_rows: int) -> int:
    """The largest batch that always finds room in time, see `StreamBuffer.largest_reservation`."""
    row_bytes = config.stream.as_schema().row_bytes
    ring_share = max(1, min(largest_rows, config.buffer.capacity_samples // 2)) * row_bytes
    return max(row_bytes, min(config.stream.max_batch_bytes, ring_share))


def _door(config: Config, objective: Objective) -> Door:
    return Door(config.stream.as_schema(), _bounds(config, objective), config.stream.non_finite)


def _bounds(config: Config, objective: Objective) -> dict[str, tuple[float | None, float | None]]:
    """The elements that a field may have, by what the stream and the objective say."""
    ranges: dict[str, tuple[float | None, float | None]] = dict(objective.label_range)
    for name, field in config.stream.fields.items():
        low, high = ranges.get(name, (None, None))
        ranges[name] = (
            low if field.minimum is None else field.minimum,
            high if field.maximum is None else field.maximum,
        )
    return ranges


def _hooks(config: Config) -> list[Hook]:
    def action(section: Any) -> Action:
        if section.shell is not None:
            return RunCommand(section.shell)
        if section.python is not None:
            return CallFunction.named(section.python)
        return PostJson(section.post)

    return [
        Hook(f"{index}-{hook.on}", hook.on, action(hook), hook.every, hook.timeout_seconds)
        for index, hook in enumerate(config.hooks)
    ]
