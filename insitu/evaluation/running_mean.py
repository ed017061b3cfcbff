"""The running mean of one figure: over all rows, over each task, over a window, and fading.

Sums stay on the device of the values. A `RunningMean` is never changed: `with_values` makes the
next one, so any thread may read the one it has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: the task that stands for all that came after those that are told apart
OTHER_TASKS = -1

_NOTHING = torch.zeros((), dtype=torch.float64)
_NO_ROWS = torch.zeros(1, dtype=torch.float64)
_NO_STEPS = torch.zeros(0, dtype=torch.float64)


@dataclass(frozen=True)
class Values:
    """Values of one figure, in the order of their steps.

    Args:
        steps: (n,) number of the step of each, ascending.
        tasks: (n,) its task.
        rows: (n,) rows that it is the mean of.
        values: (n,) on any device.
    """

    steps: NDArray[np.int64]
    tasks: NDArray[np.int64]
    rows: NDArray[np.int64]
    values: Tensor


@dataclass(frozen=True)
class RunningMean:
    """Sums so far.

    Args:
        window_steps: steps of the window.
        fading_factor: what a step is worth when the next has come.
        most_tasks: tasks told apart, the first to come.
        step: the newest step.
        tasks: the tasks in the order of their first value.
        rows: of all tasks, then by task; `sums` (1 + tasks,) likewise.
        fading: 0-dim sum, and what it is divided by.
        recent: (steps,) sum over each of the newest steps, its rows, and its number.
    """

    window_steps: int
    fading_factor: float
    most_tasks: int
    step: int = 0
    tasks: tuple[int, ...] = ()
    rows: tuple[int, ...] = (0,)
    sums: Tensor = _NO_ROWS
    fading: Tensor = _NOTHING
    fading_rows: float = 0.0
    recent: Tensor = _NO_STEPS
    recent_rows: tuple[int, ...] = ()
    recent_steps: tuple[int, ...] = ()

    def with_values(self, new: Values, step: int) -> RunningMean:
        """With further values; `step` is the newest, whether there is a value of it or not."""
        device = new.values.device
        sums = new.values.to(torch.float64) * _on(new.rows, device)
        numbers, of_step = _distinct(new.steps)
        step_rows = np.bincount(of_step, new.rows, len(numbers)).astype(np.int64)
        step_sums = _added(sums, of_step, len(numbers))
        fade = self.fading_factor ** (step - numbers)
        decay = self.fading_factor ** (step - self.step)
        tasks = self._tasks_with(new.tasks)
        rows, task_sums = self._by_task(tasks, new, sums)
        recent, recent_rows, recent_steps = self._recent(step_sums, step_rows, numbers, step)
        return RunningMean(
            self.window_steps,
            self.fading_factor,
            self.most_tasks,
            step,
            tasks,
            rows,
            task_sums,
            self.fading.to(device) * decay + (step_sums * _on(fade, device)).sum(),
            self.fading_rows * decay + float((step_rows * fade).sum()),
            recent,
            recent_rows,
            recent_steps,
        )

    def _tasks_with(self, column: NDArray[np.int64]) -> tuple[int, ...]:
        changes = np.flatnonzero(np.diff(column)) + 1
        tasks = list(self.tasks)
        for task in dict.fromkeys([int(column[0]), *column[changes].tolist()]):
            if task not in tasks:
                full = sum(each != OTHER_TASKS for each in tasks) >= self.most_tasks
                if not full:
                    tasks.append(task)
                elif OTHER_TASKS not in tasks:
                    tasks.append(OTHER_TASKS)
        return tuple(tasks)

    def _by_task(
        self, tasks: tuple[int, ...], new: Values, sums: Tensor
    ) -> tuple[tuple[int, ...], Tensor]:
        place_of = {task: place for place, task in enumerate(tasks, 1)}
        found, inverse = _distinct(new.tasks)
        other = place_of.get(OTHER_TASKS, 0)
        places = np.array([place_of.get(task, other) for task in found.tolist()], np.int64)[inverse]
        rows = np.bincount(places, new.rows, 1 + len(tasks)).astype(np.int64)
        by_task = _added(sums, places, 1 + len(tasks))
        by_task[0] = sums.sum()
        by_task[: len(self.sums)] += self.sums.to(sums.device)
        rows[0] = new.rows.sum()
        rows[: len(self.rows)] += np.array(self.rows)
        return tuple(rows.tolist()), by_task

    def _recent(
        self, sums: Tensor, rows: NDArray[np.int64], numbers: NDArray[np.int64], step: int
    ) -> tuple[Tensor, tuple[int, ...], tuple[int, ...]]:
        steps = (*self.recent_steps, *numbers.tolist())
        gone = sum(each <= step - self.window_steps for each in steps)
        recent = torch.cat((self.recent.to(sums.device), sums))[gone:]
        return recent, (*self.recent_rows, *rows.tolist())[gone:], steps[gone:]

    # readings: (rows, mean), NaN without rows

    def mean(self) -> tuple[int, float]:
        return _mean(self.rows[0], self.sums[0])

    def faded(self) -> float:
        return float(self.fading) / self.fading_rows if self.fading_rows else math.nan

    def window(self) -> tuple[int, float]:
        return _mean(sum(self.recent_rows), self.recent.sum())

    def by_task(self) -> dict[int, tuple[int, float]]:
        sums = self.sums.tolist()
        return {t: (self.rows[n], sums[n] / self.rows[n]) for n, t in enumerate(self.tasks, 1)}

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "tasks": list(self.tasks),
            "rows": list(self.rows),
            "sums": self.sums,
            "fading": self.fading,
            "fading_rows": self.fading_rows,
            "recent": self.recent,
            "recent_rows": list(self.recent_rows),
            "recent_steps": list(self.recent_steps),
        }

    def of_state(self, state: Mapping[str, Any]) -> RunningMean:
        """One with this one's choices and the sums of a state."""
        return RunningMean(
            self.window_steps,
            self.fading_factor,
            self.most_tasks,
            int(state["step"]),
            tuple(state["tasks"]),
            tuple(state["rows"]),
            state["sums"].clone(),
            state["fading"].clone(),
            float(state["fading_rows"]),
            state["recent"].clone(),
            tuple(state["recent_rows"]),
            tuple(state["recent_steps"]),
        )


def _distinct(column: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The distinct values, ascending, and the place of each value among them."""
    changes = np.diff(column) != 0
    if (column[1:] >= column[:-1]).all():  # nearly always, and then there is nothing to sort
        places = np.concatenate(([0], np.cumsum(changes)))
        return column[np.concatenate(([True], changes))], places
    distinct, places = np.unique(column, return_inverse=True)
    return distinct, places


def _on(values: NDArray[Any], device: torch.device) -> Tensor:
    return torch.from_numpy(values.astype(np.float64)).to(device)


def _added(sums: Tensor, places: NDArray[np.int64], count: int) -> Tensor:
    index = torch.from_numpy(places.astype(np.int64)).to(sums.device)
    return sums.new_zeros(count).index_add_(0, index, sums)


def _mean(rows: int, total: Tensor) -> tuple[int, float]:
    return rows, float(total) / rows if rows else math.nan
