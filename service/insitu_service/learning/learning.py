"""What learns, without where its samples come from: the service and `insitu replay` share it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from insitu.checkpoint import SnapshotBuffers
from insitu.config import Config
from insitu.evaluation import EvaluationMatrix, Prequential, ProbeSets, read_probe_file
from insitu.stream.buffer import StreamBuffer
from insitu.stream.transfer import Transfer
from insitu.trainer import Trainer
from insitu_service.commands import CommandQueue
from insitu_service.hooks.actions import Action, CallFunction, PostJson, RunCommand
from insitu_service.hooks.runner import Hook, HookRunner
from insitu_service.learning.building import build_buffer, build_trainer, choose_device
from insitu_service.learning.examiner import Examiner
from insitu_service.learning.generators import part_generator
from insitu_service.learning.held_back import HeldBack
from insitu_service.learning.learner import Learner, Watchers
from insitu_service.learning.memories import count_checkpoints
from insitu_service.learning.probe_inbox import ProbeInbox
from insitu_service.learning.tally import Tally
from insitu_service.recording.checkpoint_writer import CheckpointCounters, CheckpointWriter
from insitu_service.recording.recorder import Recorder, Stateful
from insitu_service.stream_log.logged import RECORD, LogHooks
from insitu_service.supervision.beat import Beat


@dataclass(frozen=True)
class Learning:
    """All parts between the stream buffer and the checkpoints."""

    config: Config
    device: torch.device
    buffer: StreamBuffer
    trainer: Trainer
    tally: Tally
    inbox: ProbeInbox
    examiner: Examiner
    hooks: HookRunner
    writer: CheckpointWriter | None
    recorder: Recorder
    log_hooks: LogHooks
    held_back: HeldBack
    commands: CommandQueue

    def learner(
        self,
        close_door: Callable[[str], None],
        beat: Beat,
        *,
        backlog_samples: Callable[[], int],
        drain_seconds: float | None = None,
        drain_on_stop: bool | None = None,
        watchers: Watchers | None = None,
    ) -> Learner:
        """The thread's work; what is given stands in place of what is configured."""
        config = self.config
        service = config.service
        return Learner(
            self.buffer,
            self.trainer,
            self.examiner,
            self.recorder,
            self.commands,
            self.hooks if watchers is None else watchers,
            close_door,
            self.tally,
            transfer=Transfer(self.buffer.schema, self.device),
            batch_size=config.trainer.batch_size,
            drain_seconds=service.drain_seconds if drain_seconds is None else drain_seconds,
            drain_on_stop=service.drain_on_stop if drain_on_stop is None else drain_on_stop,
            evaluate_every_steps=config.evaluation.every_steps,
            most_skipped_steps=config.trainer.most_skipped_steps,
            beat=beat,
            held_back=self.held_back,
            backlog_samples=backlog_samples,
        )

    def take_probe_files(self) -> None:
        """Read the held-out rows that the configuration names."""
        for task, path in self.config.evaluation.probe_files.items():
            file = read_probe_file(path, self.buffer.schema, self.bounds())
            self.examiner.take_file(task, file)

    def bounds(self) -> dict[str, tuple[float | None, float | None]]:
        """The elements that a field may have, by what the stream and the objective say."""
        ranges: dict[str, tuple[float | None, float | None]] = {
            **self.trainer.objective.label_range
        }
        for name, field in self.config.stream.fields.items():
            low, high = ranges.get(name, (None, None))
            ranges[name] = (
                low if field.minimum is None else field.minimum,
                high if field.maximum is None else field.maximum,
            )
        return ranges


def build_learning(config: Config) -> Learning:
    """Make the parts; loads nothing and starts nothing but the threads of hooks and writer."""
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    device = choose_device(config.trainer.device)
    trainer = build_trainer(config, device)
    buffer = build_buffer(config, device)
    tally, inbox, log_hooks, held_back = Tally(), ProbeInbox(), LogHooks(), HeldBack()
    examiner = _examiner(config, buffer, trainer, inbox)
    hooks = HookRunner(_hooks(config), {"service": config.service.name})
    writer, recorder = _recording(
        config, {"trainer": trainer, "buffer": buffer, "examiner": examiner},
        {"held_back": held_back}, hooks, tally, log_hooks,
    )  # fmt: skip
    count_checkpoints(trainer, writer)
    return Learning(
        config, device, buffer, trainer, tally, inbox, examiner, hooks, writer, recorder,
        log_hooks, held_back, CommandQueue(on_post=buffer.interrupt),
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


def _recording(
    config: Config,
    parts: dict[str, Stateful],
    optional: dict[str, Stateful],
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
        parts,
        section.directory,
        writer,
        SnapshotBuffers(),
        every_steps=section.every_steps,
        every_seconds=section.every_seconds,
        on_stop=section.on_stop,
        retain_start=config.trainer.non_finite == "rollback",
        optional=optional,
        describe=lambda state: {RECORD: state["buffer"]["log"]["record"]},
    )
    return writer, recorder


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
