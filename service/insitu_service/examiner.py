"""The examiner: keeps the held-out rows and measures the model on them, task by task.

Called by the learner only. What it found is also there as an immutable picture for others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from insitu.batch import Column
from insitu.evaluation import EvaluationMatrix, ProbeSets
from insitu.trainer import Trainer
from insitu_service.probe_inbox import ProbeInbox


@dataclass(frozen=True)
class ExaminationPicture:
    """The newest results, for status and metrics.

    Args:
        metric: the figure of the matrix; `higher_is_better` says which way is up.
        tasks: names of the columns.
        ended: name of the task that ended before each row.
        matrix: result by row and column; None where nothing was measured.
        newest: task -> its newest result, also from measurements between task ends.
        forgetting: task -> by how much it is worse than at its best.
        probes: task -> held-out samples that it is measured on.
    """

    metric: str
    higher_is_better: bool
    tasks: tuple[str, ...] = ()
    ended: tuple[str, ...] = ()
    matrix: tuple[tuple[float | None, ...], ...] = ()
    newest: Mapping[str, float] | None = None
    forgetting: Mapping[str, float] | None = None
    probes: Mapping[str, int] = field(default_factory=dict)


class Examiner:
    """Probe sets, the matrix of results, and the inbox that probes come in by.

    Args:
        task_index: name of a task -> its index, making one for a new name.
        task_names: the names by index.
    """

    def __init__(
        self,
        probes: ProbeSets,
        matrix: EvaluationMatrix,
        inbox: ProbeInbox,
        task_index: Callable[[str], int],
        task_names: Callable[[], tuple[str, ...]],
    ) -> None:
        self._probes = probes
        self._matrix = matrix
        self._inbox = inbox
        self._task_index = task_index
        self._task_names = task_names
        self._newest: dict[str, tuple[int, int]] = {}  # producer -> epoch and number of its probe
        self.picture = ExaminationPicture(matrix.metric, matrix.higher_is_better)

    def take_in(self) -> None:
        """Keep the probes that have come since the last time, each once.

        After a resume a producer may send one again that the checkpoint holds already.
        """
        for probe in self._inbox.take_all():
            number = probe.epoch, probe.seq
            if number <= self._newest.get(probe.producer_id, (0, 0)):
                continue
            self._newest[probe.producer_id] = number
            probe.batch.provenance[:, Column.TASK] = self._task_index(probe.task)
            self._probes.add(probe.batch)

    def examine(
        self, trainer: Trainer, ended_task: int | None = None
    ) -> dict[str, dict[str, float]]:
        """Measure the model on the probes of all tasks; a task that ended adds a row."""
        results = self._probes.evaluate(trainer)
        metric = self._matrix.metric
        headline = {task: figures[metric] for task, figures in results.items()}
        if ended_task is not None:
            self._matrix.record(ended_task, headline)
        self._repaint(headline)
        names = self._task_names()
        return {names[task]: figures for task, figures in results.items()}

    def _repaint(self, newest: Mapping[int, float]) -> None:
        names, matrix = self._task_names(), self._matrix
        self.picture = ExaminationPicture(
            matrix.metric,
            matrix.higher_is_better,
            tuple(names[task] for task in matrix.tasks),
            tuple(names[task] for task in matrix.ended),
            tuple(tuple(row) for row in matrix.table()),
            {names[task]: value for task, value in newest.items()},
            {
                names[task]: value
                for task in matrix.tasks
                if not math.isnan(value := matrix.forgetting_of(task))
            },
            {names[task]: count for task, count in self._probes.counts().items()},
        )

    def state_dict(self) -> dict[str, Any]:
        self.take_in()
        newest = [[name, *number] for name, number in self._newest.items()]
        return {
            "probes": self._probes.state_dict(),
            "matrix": self._matrix.state_dict(),
            "newest": newest,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._probes.load_state_dict(state["probes"])
        self._matrix.load_state_dict(state["matrix"])
        self._newest = {name: (epoch, seq) for name, epoch, seq in state["newest"]}
        self._repaint({})
