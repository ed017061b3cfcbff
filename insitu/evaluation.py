"""What was learned and what was forgotten: probes of every task, and the matrix of results.

Producers send some samples as probes (`SampleFlag.EVALUATE`). They are measured, never trained.
After every task the model is measured on the probes of all tasks so far; that is one row of the
matrix a[i][j], the result on task j after task i was learned. From it, with k the newest row,

    average        A_k = mean over learned tasks j of a[k][j]
    forgetting     f_j = max over i < k of a[i][j] - a[k][j], averaged over tasks learned before k
                   (Chaudhry et al., "Riemannian Walk for Incremental Learning", 2018, section 3)
    backward transfer    mean over tasks learned before k of a[k][j] - a[j][j]
                   (Lopez-Paz and Ranzato, "Gradient Episodic Memory", 2017, eq. 3)

for scores of which higher is better. For errors the maximum becomes a minimum and the differences
change their sign, so that forgetting above 0 is always a loss and backward transfer above 0 always
a gain. Deviations: a task may be learned more than once; its own row is then that of its last end.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from insitu.batch import Batch, Column, SampleFlag
from insitu.task_samples import TaskSamples


@dataclass(frozen=True)
class Evaluation:
    """How a model did on held-out rows.

    Args:
        samples: rows that were measured.
        loss: mean loss per sample; NaN without rows.
        scores: the objective's figures over all rows.
    """

    samples: int
    loss: float
    scores: Mapping[str, float]

    def figures(self) -> dict[str, float]:
        """Loss and scores under one roof, by name."""
        return {"loss": self.loss, **self.scores}


class Evaluator(Protocol):
    """Whoever can measure held-out rows; in the service the `Trainer`."""

    def evaluate(self, batch: Batch) -> Evaluation: ...


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, the former mode of every submodule after."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def divide(batch: Batch) -> tuple[Batch, Batch]:
    """The rows to train and the probes, each in order; views where all rows are of one kind.

    Example:
        >>> batch = Batch.of({"x": torch.arange(3.0)})
        >>> batch.provenance[1, Column.FLAGS] = SampleFlag.EVALUATE
        >>> trained, probes = divide(batch)
        >>> trained.fields["x"].tolist(), probes.fields["x"].tolist()
        ([0.0, 2.0], [1.0])
    """
    is_probe = (batch.column(Column.FLAGS) & SampleFlag.EVALUATE).bool()
    probes = int(is_probe.sum())
    if probes == 0:
        return batch, batch.select(slice(0, 0), 0)
    if probes == batch.rows:
        return batch.select(slice(0, 0), 0), batch
    fresh_probes = int(is_probe[: batch.fresh_rows].sum())
    return (
        batch.select(~is_probe, batch.fresh_rows - fresh_probes),
        batch.select(is_probe, fresh_probes),
    )


class ProbeSets:
    """Held-out rows of every task, bounded, and how well a model does on them.

    Args:
        samples_per_task: rows to keep of each task; more are sampled uniformly.
        generator: draws which, on the CPU.
    """

    def __init__(self, samples_per_task: int, generator: torch.Generator) -> None:
        self._samples = TaskSamples(samples_per_task, generator)

    def add(self, probes: Batch) -> None:
        """Keep probes under their tasks, as copies; only pass rows that are probes."""
        self._samples.add(probes)

    def counts(self) -> dict[int, int]:
        """Task -> probes kept."""
        return self._samples.counts()

    def evaluate(self, evaluator: Evaluator) -> dict[int, dict[str, float]]:
        """Task -> figure -> value, over all probes of the task."""
        results = {}
        for task in self._samples.tasks():
            rows = self._samples.rows(task)
            if rows is not None:
                results[task] = evaluator.evaluate(rows).figures()
        return results

    def state_dict(self) -> dict[str, Any]:
        return self._samples.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._samples.load_state_dict(state)


class EvaluationMatrix:
    """One figure by ended task (rows) and measured task (columns).

    Args:
        metric: name of the figure.
        higher_is_better: True for an accuracy, False for an error.

    Example:
        >>> matrix = EvaluationMatrix("accuracy", higher_is_better=True)
        >>> matrix.record(0, {0: 0.9})
        >>> matrix.record(1, {0: 0.6, 1: 0.8})
        >>> matrix.right_after_learning(0), matrix.at_the_end(0), round(matrix.forgetting(), 3)
        (0.9, 0.6, 0.3)
    """

    def __init__(self, metric: str, *, higher_is_better: bool) -> None:
        self.metric = metric
        self.higher_is_better = higher_is_better
        #: the task that ended before each row, in order
        self.ended: list[int] = []
        self._rows: list[dict[int, float]] = []

    def record(self, ended_task: int, results: Mapping[int, float]) -> None:
        """Add a row: results by task, right after `ended_task` was learned."""
        self.ended.append(ended_task)
        self._rows.append(dict(results))

    @property
    def tasks(self) -> list[int]:
        """The tasks that were measured, in the order of their first result: the columns."""
        return list(dict.fromkeys(task for row in self._rows for task in row))

    def learned(self) -> list[int]:
        """The tasks that ended, each once, in the order of their first end."""
        return list(dict.fromkeys(self.ended))

    def table(self) -> list[list[float | None]]:
        """a[i][j] by row and by `tasks`; None where nothing was measured."""
        tasks = self.tasks
        return [[row.get(task) for task in tasks] for row in self._rows]

    def right_after_learning(self, task: int) -> float:
        """The result on a task when it last ended; NaN before."""
        rows = [row for ended, row in zip(self.ended, self._rows, strict=True) if ended == task]
        return rows[-1].get(task, math.nan) if rows else math.nan

    def at_the_end(self, task: int) -> float:
        """The newest result on a task; NaN where there is none."""
        return self._rows[-1].get(task, math.nan) if self._rows else math.nan

    def average(self) -> float:
        """Mean of the newest results on all learned tasks."""
        return _mean([self.at_the_end(task) for task in self.learned()])

    def forgetting_of(self, task: int) -> float:
        """By how much the newest result is worse than the best before; NaN with fewer than two."""
        earlier = [row[task] for row in self._rows[:-1] if task in row]
        if not earlier:
            return math.nan
        best = max(earlier) if self.higher_is_better else min(earlier)
        return -self._gain(best, self.at_the_end(task))

    def forgetting(self) -> float:
        """Mean over the tasks learned before the newest row; NaN when there is none."""
        return _mean([self.forgetting_of(task) for task in self._learned_before()])

    def backward_transfer(self) -> float:
        """Mean gain since a task was learned, over the tasks learned before the newest row."""
        return _mean(
            [
                self._gain(self.right_after_learning(task), self.at_the_end(task))
                for task in self._learned_before()
            ]
        )

    def _learned_before(self) -> list[int]:
        newest = self.ended[-1:]
        return [task for task in self.learned() if task not in newest]

    def _gain(self, before: float, after: float) -> float:
        return after - before if self.higher_is_better else before - after

    def state_dict(self) -> dict[str, Any]:
        rows = [{"tasks": list(row), "results": list(row.values())} for row in self._rows]
        return {
            "metric": self.metric,
            "higher_is_better": self.higher_is_better,
            "ended": list(self.ended),
            "rows": rows,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.metric = str(state["metric"])
        self.higher_is_better = bool(state["higher_is_better"])
        self.ended = [int(task) for task in state["ended"]]
        self._rows = [dict(zip(row["tasks"], row["results"], strict=True)) for row in state["rows"]]


def _mean(values: Sequence[float]) -> float:
    """Of the values that were measured; NaN when none was."""
    measured = [value for value in values if not math.isnan(value)]
    return sum(measured) / len(measured) if measured else math.nan
