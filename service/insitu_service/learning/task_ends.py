"""Ends of tasks: producers tell of them, detectors find them, a command declares them.

However it came about, the same follows: strategies consolidate, the model is measured on the probes
of all tasks, and the log, the figures and the hooks are told. Called by the learner only.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal, Protocol

from insitu.report import Boundary
from insitu.segments import EndedTask
from insitu.tasks import TaskVisit
from insitu.trainer import Trainer
from insitu_service.learning.examiner import Examiner
from insitu_service.learning.tally import Tally

_log = logging.getLogger("insitu.learner")

EndedBy = Literal["producer", "command", "detection"]


class Watchers(Protocol):
    """Whoever watches."""

    def emit(self, event: str, payload: dict[str, Any]) -> None: ...


class TaskEnds:
    """What happens when a task ends.

    Args:
        trainer, examiner, tally: of the learner.
        watchers: told of every end.
    """

    def __init__(
        self, trainer: Trainer, examiner: Examiner, tally: Tally, watchers: Watchers
    ) -> None:
        self._trainer = trainer
        self._examiner = examiner
        self._tally = tally
        self._watchers = watchers

    def of_visit(self, visit: TaskVisit) -> None:
        """The last producer in a task has left it, and all its samples are trained."""
        self._trainer.segments.index_of(visit.task)  # known from now on, if only dropped samples
        task = self._trainer.end_task(visit.task)
        self._tell(EndedTask(task, visit.samples), "producer")

    def at_boundary(self, boundary: Boundary) -> None:
        """Detectors found a boundary; the trainer has ended the tasks before it."""
        self._tally.boundary_declared()
        _log.info("%s: the stream has changed", ", ".join(boundary.detectors))
        for ended in boundary.ended:
            self._tell(ended, "detection", boundary.detectors)

    def by_command(self) -> dict[str, Any]:
        """End what is in progress now; the result of the command."""
        ended = self._trainer.declare_boundary()
        if ended:
            self._tally.boundary_declared()
        for each in ended:
            self._tell(each, "command")
        return {"tasks": [self._examiner.name_of(each.task) for each in ended]}

    def _tell(self, ended: EndedTask, by: EndedBy, detectors: Sequence[str] = ()) -> None:
        self._examiner.take_in()
        scores = self._examiner.examine(self._trainer, ended.task)
        self._tally.task_ended()
        name = self._examiner.name_of(ended.task)
        _log.info("task %s ended after %d samples", name, ended.samples)
        payload = {
            "task": name,
            "samples": ended.samples,
            "step": self._trainer.steps,
            "scores": scores,
            "figures": self._examiner.figures(),
            "ended_by": by,
            "detectors": list(detectors),
        }
        self._watchers.emit("task_end", payload)
