"""Prequential figures: predict, then learn; every fresh row is a test row before it is trained.

The loss and the headline score of the fresh rows, before their update, weighted by rows:

    mean      over all rows so far                                       (Dawid 1984)
    window    over the rows of the last W steps                          (Gama 2013, section 3.1)
    fading    S(i) = e(i) + alpha S(i - 1),  N(i) = n(i) + alpha N(i - 1),  S / N   (section 3.2)

where e(i) is the sum over the n(i) rows of step i; and the mean of every task. Sources: Dawid,
"Statistical Theory: The Prequential Approach", 1984. Gama, Sebastiao and Rodrigues, "On evaluating
stream learning algorithms", 2013.

Deviations: alpha fades by steps and not by rows. A score that is no mean over rows (a root mean
square) enters as that of its step. Of a step whose rows are of several tasks each task gets its
own rows. Steps that made no update are not counted.

A step only leaves its two tensors in a list; they are added up on the device, many steps at a time,
so nothing waits and a step pays a few microseconds beside the score itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from insitu.batch import Batch, Column
from insitu.report import StepReport

#: the task that stands for all that came after `most_tasks`
OTHER_TASKS = -1
_TASK = int(Column.TASK)


class Entry(NamedTuple):
    """Rows of one task in one step: mean loss and score, 0-dim on the device."""

    step: int
    task: int
    rows: int
    loss: Tensor
    score: Tensor


class PrequentialFigures(NamedTuple):
    """Figures over some rows; NaN without any."""

    samples: int
    loss: float
    score: float


@dataclass(frozen=True)
class _Folded:
    """All steps that were added up; replaced as a whole, never changed, so any thread may read.

    Args:
        steps: so far.
        rows: by place of a task.
        tasks: task -> its place; place 0 is all tasks together.
        sums: (places, 2) float64 on the CPU or device: sums of loss and score over rows.
        fading: (2,) the same, fading; `fading_rows` what they are divided by.
        recent: (entries, 2) of the newest window, and the rows and step of each.
    """

    steps: int
    rows: tuple[int, ...]
    tasks: Mapping[int, int]
    sums: Tensor
    fading: Tensor
    fading_rows: float
    recent: Tensor
    recent_rows: tuple[int, ...]
    recent_steps: tuple[int, ...]


_EMPTY = torch.zeros(0, 2, dtype=torch.float64)


def _nothing() -> _Folded:
    zeros = torch.zeros(1, 2, dtype=torch.float64)
    return _Folded(0, (0,), {}, zeros, zeros[0], 0.0, _EMPTY, (), ())


class Prequential:
    """Counts reports of a trainer; one thread counts, any may read.

    Args:
        score: name of the score, such as the objective's headline; `loss` for the loss itself.
        window_steps: steps of the window.
        fading_factor: alpha, what a step is worth when the next has come; below 1.
        most_tasks: tasks told apart, the first to come; the rest goes under `OTHER_TASKS`.

    Example:
        >>> from insitu.report import StepReport
        >>> prequential = Prequential("loss", window_steps=1)
        >>> for step, loss in enumerate((4.0, 2.0), 1):
        ...     report = StepReport(step, 8, 0, torch.full((8,), loss), {}, dict, None, 0.1)
        ...     prequential.count(Batch.of({"x": torch.zeros(8)}, task=3), report)
        >>> prequential.mean().loss, prequential.window().loss, prequential.by_task()[3].samples
        (3.0, 2.0, 16)
    """

    def __init__(
        self,
        score: str,
        *,
        window_steps: int = 100,
        fading_factor: float = 0.99,
        most_tasks: int = 64,
    ) -> None:
        self.score = score
        self._window_steps = window_steps
        self._fading_factor = fading_factor
        self._most_tasks = most_tasks
        self._seen: set[int] = set()
        self._steps = 0
        # replaced together: a reader that has this tuple has every entry once
        self._state: tuple[_Folded, list[Entry]] = (_nothing(), [])

    def count(self, batch: Batch, report: StepReport) -> None:
        """Count the step that trained the fresh rows of `batch`, right after it."""
        if report.skipped or report.fresh_samples == 0:
            return
        self._steps += 1
        tasks = batch.provenance.numpy()[: report.fresh_samples, _TASK]
        first = int(tasks[0])
        pending = self._state[1]
        if len(tasks) == 1 or (tasks == first).all():
            loss = report.loss_fresh
            assert loss is not None
            score = loss if self.score == "loss" else report.scores[self.score]
            pending.append(Entry(self._steps, self._kept(first), len(tasks), loss, score))
        else:
            for task in np.unique(tasks).tolist():
                pending.append(self._entry(task, np.flatnonzero(tasks == task), report))
        if len(pending) >= self._window_steps:
            self.fold()

    def _entry(self, task: int, numbers: np.ndarray, report: StepReport) -> Entry:
        rows = torch.from_numpy(numbers)
        loss = report.losses[rows.to(report.losses.device)].mean()
        score = loss if self.score == "loss" else report.scores_of(rows)[self.score]
        return Entry(self._steps, self._kept(task), len(numbers), loss, score)

    def _kept(self, task: int) -> int:
        if task not in self._seen:
            if len(self._seen) >= self._most_tasks:
                return OTHER_TASKS
            self._seen.add(task)
        return task

    def fold(self) -> None:
        """Add up what waits; by the thread that counts."""
        self._state = (self._whole(), [])

    # figures, by any thread

    def mean(self) -> PrequentialFigures:
        """Over all rows so far."""
        whole = self._whole()
        return _figures(whole.rows[0], whole.sums[0])

    def fading(self) -> PrequentialFigures:
        """Over all rows, the older the less; `samples` are those that still count, rounded."""
        whole = self._whole()
        loss, score = (whole.fading / whole.fading_rows).tolist() if whole.fading_rows else _NONE
        return PrequentialFigures(round(whole.fading_rows), loss, score)

    def window(self) -> PrequentialFigures:
        """Over the rows of the last `window_steps` steps."""
        whole = self._whole()
        rows = torch.tensor(whole.recent_rows, dtype=torch.float64, device=whole.recent.device)
        return _figures(sum(whole.recent_rows), rows @ whole.recent)

    def by_task(self) -> dict[int, PrequentialFigures]:
        """Task -> over all its rows so far."""
        whole = self._whole()
        return {t: _figures(whole.rows[at], whole.sums[at]) for t, at in whole.tasks.items()}

    @property
    def tasks(self) -> set[int]:
        """The tasks of which rows were counted and that are told apart."""
        return set(self._seen)

    def _whole(self) -> _Folded:
        """What is folded and what waits, added up."""
        folded, pending = self._state
        entries = list(pending)
        return self._folded(folded, entries) if entries else folded

    def _folded(self, folded: _Folded, entries: list[Entry]) -> _Folded:
        values = torch.stack([t for e in entries for t in (e.loss, e.score)]).reshape(-1, 2)
        values, device = values.to(torch.float64), values.device
        tasks = dict(folded.tasks)
        for entry in entries:
            tasks.setdefault(entry.task, len(tasks) + 1)
        steps = entries[-1].step
        weights = np.zeros((len(tasks) + 2, len(entries)))
        for column, entry in enumerate(entries):
            weights[0, column] = entry.rows
            weights[tasks[entry.task], column] = entry.rows
            weights[-1, column] = entry.rows * self._fading_factor ** (steps - entry.step)
        sums = torch.from_numpy(weights).to(device) @ values
        rows = weights.sum(1)
        decay = self._fading_factor ** (steps - folded.steps)
        old = folded.sums.to(device)
        sums[: len(old)] += old
        return _Folded(
            steps,
            tuple(
                int(new) + (folded.rows[at] if at < len(folded.rows) else 0)
                for at, new in enumerate(rows[:-1])
            ),
            tasks,
            sums[:-1],
            folded.fading.to(device) * decay + sums[-1],
            folded.fading_rows * decay + float(rows[-1]),
            *self._recent(folded, entries, values, steps),
        )

    def _recent(
        self, folded: _Folded, entries: list[Entry], values: Tensor, steps: int
    ) -> tuple[Tensor, tuple[int, ...], tuple[int, ...]]:
        all_steps = (*folded.recent_steps, *(entry.step for entry in entries))
        rows = (*folded.recent_rows, *(entry.rows for entry in entries))
        gone = sum(step <= steps - self._window_steps for step in all_steps)  # they ascend
        recent = torch.cat((folded.recent.to(values.device), values))[gone:]
        return recent, rows[gone:], all_steps[gone:]

    def state_dict(self) -> dict[str, Any]:
        self.fold()
        folded = self._state[0]
        return {
            "steps": folded.steps,
            "rows": list(folded.rows),
            "tasks": list(folded.tasks),
            "sums": folded.sums,
            "fading": folded.fading,
            "fading_rows": folded.fading_rows,
            "recent": folded.recent,
            "recent_rows": list(folded.recent_rows),
            "recent_steps": list(folded.recent_steps),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._steps = int(state["steps"])
        tasks = {int(task): place for place, task in enumerate(state["tasks"], 1)}
        self._seen = {task for task in tasks if task != OTHER_TASKS}
        loaded = replace(
            _nothing(),
            steps=self._steps,
            rows=tuple(state["rows"]),
            tasks=tasks,
            sums=state["sums"].clone(),
            fading=state["fading"].clone(),
            fading_rows=float(state["fading_rows"]),
            recent=state["recent"].clone(),
            recent_rows=tuple(state["recent_rows"]),
            recent_steps=tuple(state["recent_steps"]),
        )
        self._state = (loaded, [])


_NONE = (math.nan, math.nan)


def _figures(rows: int, sums: Tensor) -> PrequentialFigures:
    loss, score = (sums / rows).tolist() if rows else _NONE
    return PrequentialFigures(rows, loss, score)
