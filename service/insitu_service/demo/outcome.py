"""From the evaluation matrix of `/status` to what a person wants to know of each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from insitu.errors import InternalError


@dataclass(frozen=True)
class TaskOutcome:
    """The held-out result on one task, right after it was learned and at the end."""

    task: str
    right_after: float
    at_the_end: float


@dataclass(frozen=True)
class Outcome:
    """What one service learned and kept.

    Args:
        metric: name of the figure.
        higher_is_better: True for an accuracy, False for an error.
        tasks: in the order in which they were learned.
        curves: task -> its result after every task that ended, None where there was none.
    """

    metric: str
    higher_is_better: bool
    tasks: tuple[TaskOutcome, ...]
    curves: Mapping[str, Sequence[float | None]]

    def forgetting(self, task: TaskOutcome) -> float:
        """By how much a task became worse since it was learned; below 0 it became better."""
        if self.higher_is_better:
            return task.right_after - task.at_the_end
        return task.at_the_end - task.right_after

    def mean_at_the_end(self) -> float:
        return sum(task.at_the_end for task in self.tasks) / len(self.tasks)

    def mean_forgetting(self) -> float:
        """Over all tasks but the last, which there was no time to forget."""
        earlier = self.tasks[:-1] or self.tasks
        return sum(self.forgetting(task) for task in earlier) / len(earlier)


def read_outcome(evaluation: Mapping[str, Any]) -> Outcome:
    """The `evaluation` part of a status, of a stream in which each task came once.

    Example:
        >>> outcome = read_outcome({
        ...     "metric": "accuracy", "higher_is_better": True, "tasks": ["a", "b"],
        ...     "matrix": [[0.9, None], [0.4, 0.8]]})
        >>> [round(outcome.forgetting(task), 2) for task in outcome.tasks]
        [0.5, 0.0]
    """
    names, matrix = list(evaluation["tasks"]), list(evaluation["matrix"])
    if len(names) != len(matrix):
        raise InternalError(
            f"{len(matrix)} tasks were measured at their end, {len(names)} were seen"
        )
    outcomes = []
    for index, name in enumerate(names):
        right_after, at_the_end = matrix[index][index], matrix[-1][index]
        if right_after is None or at_the_end is None:
            raise InternalError(f"task {name!r} was not measured on held-out samples")
        outcomes.append(TaskOutcome(name, right_after, at_the_end))
    curves = {name: [row[index] for row in matrix] for index, name in enumerate(names)}
    return Outcome(evaluation["metric"], evaluation["higher_is_better"], tuple(outcomes), curves)
