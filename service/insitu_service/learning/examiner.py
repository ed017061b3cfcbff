"""The examiner: keeps the held-out rows and measures the model on them, task by task.

Called by the learner only. What it found is also there as an immutable picture for others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from insitu.batch import Batch, Column
from insitu.evaluation import EvaluationMatrix, Prequential, ProbeFile, ProbeSets
from insitu.report import StepReport
from insitu.segments import Segments
from insitu.trainer import Trainer
from insitu_service.learning.probe_inbox import Probe, ProbeInbox


@dataclass(frozen=True)
class ExaminationPicture:
    """The newest results, for status and metrics.

    Args:
        metric: the figure of the matrix; `higher_is_better` says which way is up.
        tasks: names of the columns.
        ended: name of the task that ended before each row; `row_numbers` tells its place among
            all rows, of which many old ones are gone in a long run.
        ends: task -> how often it ended.
        matrix: result by row and column; None where nothing was measured.
        newest: task -> its newest result, also from measurements between task ends.
        forgetting: task -> by how much it is worse than at its best.
        probes: task -> held-out samples that it is measured on.
        figures: name -> figure over tasks, see `insitu.evaluation.matrix`; NaN where undefined.
    """

    metric: str
    higher_is_better: bool
    tasks: tuple[str, ...] = ()
    ended: tuple[str, ...] = ()
    row_numbers: tuple[int, ...] = ()
    ends: Mapping[str, int] = field(default_factory=dict)
    matrix: tuple[tuple[float | None, ...], ...] = ()
    newest: Mapping[str, float] | None = None
    forgetting: Mapping[str, float] | None = None
    probes: Mapping[str, int] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)


class Examiner:
    """Probe sets, the matrix of results, prequential figures, and the inbox of probes.

    Args:
        task_index: name of a task -> its index, making one for a new name.
        task_names: the names by index.
        segments: of the trainer: what the tasks of the producers are cut into.
        prequential: counts every step; by default as its class does.
    """

    def __init__(
        self,
        probes: ProbeSets,
        matrix: EvaluationMatrix,
        inbox: ProbeInbox,
        task_index: Callable[[str], int],
        task_names: Callable[[], tuple[str, ...]],
        segments: Segments | None = None,
        prequential: Prequential | None = None,
    ) -> None:
        self.prequential = prequential or Prequential(matrix.metric)
        self._probes = probes
        self._matrix = matrix
        self._inbox = inbox
        self._task_index = task_index
        self._task_names = task_names
        self._segments = segments or Segments()
        self._next_row: dict[str, tuple[int, int]] = {}  # producer -> epoch, row after its probes
        self._files: dict[str, str] = {}  # task -> digest of the file that its probes are from
        self._newest: dict[int, float] = {}
        self.picture = ExaminationPicture(matrix.metric, matrix.higher_is_better)

    def take_in(self) -> None:
        """Keep the probes that have come since the last time, each row once.

        After a resume a producer may send rows again that the checkpoint holds already, and in
        other batches than before.
        """
        for probe in self._inbox.take_all():
            batch = self._unknown_rows(probe)
            if batch.rows:
                task = self._segments.index_of(self._task_index(probe.task))
                batch.provenance[:, Column.TASK] = task
                self._probes.add(batch)

    def _unknown_rows(self, probe: Probe) -> Batch:
        epoch, next_row = self._next_row.get(probe.producer_id, (0, 0))
        rows = probe.batch.column(Column.ROW)
        if probe.epoch < epoch or len(rows) == 0:
            return probe.batch.select(slice(0, 0), 0)
        self._next_row[probe.producer_id] = probe.epoch, int(rows[-1]) + 1
        if probe.epoch > epoch or int(rows[0]) >= next_row:
            return probe.batch
        self._next_row[probe.producer_id] = epoch, max(next_row, int(rows[-1]) + 1)
        return probe.batch.select(rows >= next_row, 0)

    def take_file(self, task: str, file: ProbeFile) -> bool:
        """Keep the probes of a file; False when they are here already, from a checkpoint.

        A file that has changed replaces all probes of its task.
        """
        known = self._files.get(task)
        if known == file.digest:
            return False
        index = self._segments.index_of(self._task_index(task))
        if known is not None:
            self._probes.forget(index)
        file.batch.provenance[:, Column.TASK] = index
        self._probes.add(file.batch)
        self._files[task] = file.digest
        self._repaint(self._newest)
        return True

    def watch(self, batch: Batch, report: StepReport) -> None:
        """Count a step that was trained on these fresh rows."""
        self.prequential.count(batch, report)

    def examine_untrained(self, trainer: Trainer) -> None:
        """Measure the model before its first step, for the forward transfer."""
        self._matrix.record_untrained(self._headlines(self._probes.evaluate(trainer)))

    def examine(
        self, trainer: Trainer, ended_task: int | None = None
    ) -> dict[str, dict[str, float]]:
        """Measure the model on the probes of all tasks; a task that ended adds a row."""
        results = self._probes.evaluate(trainer)
        headlines = self._headlines(results)
        if ended_task is None:
            self._matrix.observe(headlines, self.prequential.tasks)
        else:
            self._matrix.observe({}, self.prequential.tasks)
            self._matrix.record(ended_task, headlines)
        self._repaint(headlines)
        names = self.names()
        return {names[task]: figures for task, figures in results.items()}

    def figures(self) -> dict[str, float]:
        """The figures over tasks, of all that was measured so far."""
        return self._matrix.figures()

    def names(self) -> tuple[str, ...]:
        """The names of tasks and their segments, by index."""
        return self._segments.names(self._task_names())

    def name_of(self, task: int) -> str:
        """The name of a task or segment by its index."""
        names = self.names()
        return names[task] if task < len(names) else str(task)

    def _headlines(self, results: Mapping[int, Mapping[str, float]]) -> dict[int, float]:
        return {task: figures[self._matrix.metric] for task, figures in results.items()}

    def _repaint(self, newest: Mapping[int, float]) -> None:
        names, matrix = self.names(), self._matrix
        self._newest = dict(newest)
        self.picture = ExaminationPicture(
            metric=matrix.metric,
            higher_is_better=matrix.higher_is_better,
            tasks=tuple(names[task] for task in matrix.tasks),
            ended=tuple(names[task] for task in matrix.ended),
            row_numbers=tuple(matrix.row_numbers),
            ends={names[task]: ends for task, ends in matrix.ends.items()},
            matrix=tuple(tuple(row) for row in matrix.table()),
            newest={names[task]: value for task, value in newest.items()},
            forgetting={
                names[task]: value
                for task in matrix.tasks
                if not math.isnan(value := matrix.forgetting_of(task))
            },
            probes={names[task]: count for task, count in self._probes.counts().items()},
            figures=matrix.figures(),
        )

    def state_dict(self) -> dict[str, Any]:
        self.take_in()
        return {
            "probes": self._probes.state_dict(),
            "matrix": self._matrix.state_dict(),
            "prequential": self.prequential.state_dict(),
            "files": dict(self._files),
            "next_row": [[name, *place] for name, place in self._next_row.items()],
            # a probe may name a task that came after the buffer's state was taken
            "task_names": list(self._task_names()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._probes.load_state_dict(state["probes"])
        self._matrix.load_state_dict(state["matrix"])
        self.prequential.load_state_dict(state["prequential"])
        self._files = dict(state["files"])
        self._next_row = {name: (epoch, row) for name, epoch, row in state["next_row"]}
        for name in state["task_names"]:  # in their order, so that each gets its index again
            self._task_index(name)
        self._repaint({})
