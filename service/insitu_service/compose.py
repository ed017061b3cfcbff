"""The composition root: makes every part of the service and wires them, once.

Order matters where something can fail: what the operator may have got wrong (ports, model,
checkpoints) comes before anything runs.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import zmq

from insitu.checkpoint import list_checkpoints
from insitu.config import Config, read_clients
from insitu.stream.buffer import StreamBuffer
from insitu.stream.inlet import Inlet
from insitu.trainer import Trainer
from insitu_service.commands import CommandQueue
from insitu_service.hooks.runner import HookRunner
from insitu_service.ingest.acknowledger import Acknowledger
from insitu_service.ingest.connection_watch import ConnectionWatch
from insitu_service.ingest.data_path import DataPath
from insitu_service.ingest.door import Door
from insitu_service.ingest.endpoints import SocketTerms, bind_router
from insitu_service.ingest.gatekeeper import Gatekeeper
from insitu_service.ingest.greeting import Terms
from insitu_service.ingest.ingest import Ingest, Outbox
from insitu_service.ingest.intake import Intake
from insitu_service.ingest.lobby import Lobby
from insitu_service.ingest.quota import Quotas
from insitu_service.ingest.reception import Reception
from insitu_service.ingest.session import Sessions
from insitu_service.learning.examiner import Examiner
from insitu_service.learning.learner import Learner
from insitu_service.learning.learning import Learning, build_learning
from insitu_service.learning.tally import Tally
from insitu_service.recording.checkpoint_writer import CheckpointWriter
from insitu_service.recording.recorder import Recorder
from insitu_service.security.allow_list import AllowList
from insitu_service.security.flood_gate import FloodGate
from insitu_service.security.rate_limit import PeerRateLimits
from insitu_service.security.secrecy import Secrets
from insitu_service.security.strangers import Strangers
from insitu_service.stream_log.logged import LogParts, ack_level, open_log
from insitu_service.supervision.beat import Beat
from insitu_service.supervision.heap import keep_freed_memory

_log = logging.getLogger("insitu.compose")

NO_SECRETS = Secrets()


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
    learner_beat: Beat
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
    learning = build_learning(config)
    buffer, trainer, recorder = learning.buffer, learning.trainer, learning.recorder
    resumed_from = _restore(config, recorder) if resume else None
    if resumed_from is not None:
        _log.info("resumed from %s at step %d", resumed_from, trainer.steps)
    learning.take_probe_files()
    inlet, log = _inlet(config, learning, resumed=resume)
    fill = buffer.snapshot()
    intake, sessions = Intake(), Sessions()
    door = Door(buffer.schema, learning.bounds(), config.stream.non_finite)
    curve = config.stream.curve
    allow_list = None if curve is None else AllowList(read_clients(curve.clients_file))
    ingest = compose_ingest(config, context, inlet, sessions, door, intake, allow_list, secrets)
    buffer.on_room = ingest.wake
    if log is not None:
        log.syncer.on_synced = ingest.wake
    learner_beat = Beat(config.service.hang_seconds)
    learner = learning.learner(
        ingest.drain, learner_beat, backlog_samples=lambda: inlet.backlog_samples
    )
    return Service(
        config, learning.device, buffer, trainer, intake, allow_list, learning.tally, sessions,
        learning.examiner, recorder, door, learning.writer, learning.hooks, learning.commands,
        ingest, learner, learner_beat, resumed_from, inlet, log,
        fill.unseen_samples + inlet.backlog_samples + learning.held_back.samples, fill.dropped,
    )  # fmt: skip


def _restore(config: Config, recorder: Recorder) -> Path | None:
    """Load the newest checkpoint; a log that goes back to the start of the stream needs none."""
    if config.log.directory is not None and not list_checkpoints(_checkpoints(config)):
        return None
    return recorder.restore()


def _checkpoints(config: Config) -> Path:
    assert config.checkpoint.directory is not None, "a log goes with checkpoints, by a rule"
    return config.checkpoint.directory


def _inlet(config: Config, learning: Learning, *, resumed: bool) -> tuple[Inlet, LogParts | None]:
    """The way into the stream: through the log, where there is one."""
    buffer, inbox = learning.buffer, learning.inbox
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
    learning.log_hooks.before_write = log.syncer.sync_or_raise
    learning.log_hooks.after_write = log.retention.look
    return log.inlet, log


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
    secrets.check(config)
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
    quotas = Quotas.of(
        stream.producer_rate_samples_per_second, stream.producer_rate_bytes_per_second,
        row_bytes=schema.row_bytes, clock=time.monotonic,
    )  # fmt: skip
    acknowledger = Acknowledger(
        sessions, inlet, send, row_bytes=schema.row_bytes, always_room=when_full != "block",
        quotas=quotas,
    )  # fmt: skip
    lobby = Lobby(
        sessions, inlet, terms, acknowledger, intake, send,
        timeout_seconds=stream.session_timeout_seconds,
        greetings=PeerRateLimits(stream.max_hellos_per_second, 2 * stream.max_connections),
    )  # fmt: skip
    data_path = DataPath(
        inlet, door, acknowledger, intake, send,
        drops_newest=when_full == "drop_newest",
    )  # fmt: skip
    gate = FloodGate(stream.max_wasted_messages_per_second, 2 * stream.max_connections)
    reception = Reception(sessions, lobby, data_path, acknowledger, intake, send, gate)
    strangers = Strangers(
        most=stream.max_connections, greeting_seconds=stream.greeting_seconds,
        most_bytes=stream.max_stranger_bytes,
    )  # fmt: skip
    watch = ConnectionWatch(
        router, sessions, intake, strangers, max_message_bytes=stream.max_message_bytes
    )
    beat = Beat(config.service.hang_seconds)
    return Ingest(router, reception, inlet, watch, gatekeeper, endpoints, beat=beat)


#: the optimum of throughput over tcp and ipc; larger frames let heartbeats starve
MAX_FRAGMENT_BYTES = 1 << 20


def max_batch_bytes(config: Config, largest_rows: int) -> int:
    """The largest batch that always finds room in time, see `StreamBuffer.largest_reservation`."""
    row_bytes = config.stream.as_schema().row_bytes
    ring_share = max(1, min(largest_rows, config.buffer.capacity_samples // 2)) * row_bytes
    return max(row_bytes, min(config.stream.max_batch_bytes, ring_share))
