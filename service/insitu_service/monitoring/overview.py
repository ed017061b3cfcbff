"""The overview: the state of the service as plain data, for `/status`, tables and people."""

from __future__ import annotations

import math
import time

from torch import Tensor

from insitu import __version__
from insitu_service.compose import Service
from insitu_service.learning.memories import memory_fill
from insitu_service.learning.tally import Rate
from insitu_service.status import (
    BufferFill,
    CheckpointStatus,
    EvaluationStatus,
    PrequentialStatus,
    ProducerStatus,
    Status,
    StreamStatus,
    TaskStatus,
    TrainerStatus,
)


class Overview:
    """Reads the live parts; forces a device to finish only for the losses of the last step."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._started_at = time.time()
        self._steps, self._samples = Rate(), Rate()

    def status(self) -> Status:
        """The whole, in the shape of `insitu_service.status`."""
        service = self._service
        resumed = service.resumed_from
        return {
            "service": {
                "name": service.config.service.name,
                "version": __version__,
                "state": service.learner.state,
                "started_at": self._started_at,
                "resumed_from": None if resumed is None else resumed.name,
            },
            "stream": self._stream(),
            "buffer": self._buffer(),
            "memory": memory_fill(
                service.trainer, service.buffer.task_names(), service.buffer.producers()
            ),
            "trainer": self._trainer(),
            "tasks": self._tasks(),
            "evaluation": self._evaluation(),
            "prequential": self._prequential(),
            "producers": self._producers(),
            "checkpoint": self._checkpoint(),
        }

    def _stream(self) -> StreamStatus:
        intake, buffer = self._service.intake, self._service.buffer.snapshot()
        return {
            "received_samples": intake.received_samples,
            "resumed_samples": self._service.resumed_samples,
            "trained_samples": self._service.tally.fresh_samples,
            "skipped_samples": self._service.tally.skipped_samples,
            "dropped_samples": buffer.dropped
            - self._service.resumed_dropped
            + intake.producer_dropped_samples,
            "quarantined_samples": sum(intake.quarantined_samples.values()),
            "duplicate_batches": intake.duplicate_batches,
            "lost_samples": intake.lost_samples,
            "received_bytes": intake.received_bytes,
        }

    def _buffer(self) -> BufferFill:
        fill = self._service.buffer.snapshot()
        return {
            "policy": self._service.config.buffer.policy,
            "capacity_samples": fill.capacity_samples,
            "pending_samples": fill.unseen_samples,
            "backlog_samples": self._service.inlet.backlog_samples,
            "kept_samples": fill.seen_samples,
            "free_samples": fill.free_samples,
        }

    def _trainer(self) -> TrainerStatus:
        tally, trainer = self._service.tally, self._service.trainer
        report = tally.last_report
        return {
            "step": trainer.steps,
            "loss": number(report.loss) if report else None,
            "loss_fresh": number(report.loss_fresh) if report else None,
            "loss_replayed": number(report.loss_replayed) if report else None,
            "scores": tally.scores(),
            "learning_rate": float(trainer.optimizer.param_groups[0]["lr"]),
            "steps_per_second": self._steps.of(tally.steps),
            "samples_per_second": self._samples.of(tally.fresh_samples),
            "skipped_steps": tally.skipped_steps,
        }

    def _tasks(self) -> list[TaskStatus]:
        ends = self._service.examiner.picture.ends
        return [
            {
                "name": fill.name,
                "visit": ends.get(fill.name, 0),
                "samples": fill.arrived,
                "state": "learned" if fill.name in ends and not fill.unseen else "open",
            }
            for fill in self._service.buffer.snapshot().tasks
        ]

    def _evaluation(self) -> EvaluationStatus | None:
        picture = self._service.examiner.picture
        if not picture.tasks:
            return None
        return {
            "metric": picture.metric,
            "higher_is_better": picture.higher_is_better,
            "tasks": list(picture.tasks),
            "ended": list(picture.ended),
            "matrix": [list(row) for row in picture.matrix],
            "row_numbers": list(picture.row_numbers),
            "figures": {name: number(value) for name, value in picture.figures.items()},
            "forgetting": dict(picture.forgetting or {}),
            "probes": dict(picture.probes),
        }

    def _prequential(self) -> dict[str, PrequentialStatus]:
        prequential = self._service.examiner.prequential
        over = {
            "mean": prequential.mean(),
            "window": prequential.window(),
            "fading": prequential.fading(),
        }
        return {
            name: {
                "samples": found.samples,
                "loss": number(found.loss),
                "score": number(found.score),
            }
            for name, found in over.items()
        }

    def _producers(self) -> list[ProducerStatus]:
        return [
            {
                "id": session.producer_id,
                "state": "waiting" if session.starved else "connected",
                "rows": session.figures.accepted_samples,
                "blocked_seconds": session.figures.blocked_seconds,
                "dropped_rows": session.figures.dropped_samples,
            }
            for session in self._service.sessions
        ]

    def _checkpoint(self) -> CheckpointStatus:
        writer = self._service.writer
        counters = writer.counters if writer is not None else None
        last = counters.last_path if counters is not None else None
        return {
            "last": None if last is None else last.name,
            "last_success_at": counters.last_success_timestamp_seconds or None
            if counters
            else None,
            "failures": counters.failures if counters else 0,
        }


def number(value: Tensor | float | None) -> float | None:
    """A finite number, or None."""
    if value is None:
        return None
    plain = float(value)
    return plain if math.isfinite(plain) else None
