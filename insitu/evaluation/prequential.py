"""Prequential figures: predict, then learn; every fresh row is a test row before it is trained.

Loss and headline score of the fresh rows, before their update:

    mean      over all rows so far, and over those of each task          (Dawid 1984)
    window    over the rows of the last W steps                          (Gama 2013, section 3)
    fading    S(i) = e(i) + alpha S(i - 1),  N(i) = n(i) + alpha N(i - 1),  S / N   (the same)

where e(i) is the sum over the n(i) rows of step i. Sources: Dawid, "Statistical Theory: The
Prequential Approach", 1984. Gama, Sebastiao and Rodrigues, "On evaluating stream learning
algorithms", 2013.

Deviations: alpha fades by steps and not by rows. A score that is no mean over rows (a root mean
square) enters as that of its step. Scores may be taken in every so many steps only, as each costs a
few operations; losses are there anyway and always count in full. In a step of several tasks each
task gets its own rows. Steps that made no update are not counted.

A step only leaves what it has in a list; that is added up on the device many steps at a time, so
nothing waits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from insitu.batch import Batch, Column
from insitu.evaluation.running_mean import OTHER_TASKS, RunningMean, Values
from insitu.report import StepReport

_TASK = int(Column.TASK)


class Losses(NamedTuple):
    """The fresh rows of a step: their tasks, on the host, and (rows or more,) losses."""

    step: int
    tasks: NDArray[np.int64]
    losses: Tensor


class Score(NamedTuple):
    """The score of one task's rows in a step, 0-dim."""

    step: int
    task: int
    rows: int
    value: Tensor


class PrequentialFigures(NamedTuple):
    """Figures over some rows; NaN without any.

    Args:
        samples: rows that the loss is of.
    """

    samples: int
    loss: float
    score: float


class _Sums(NamedTuple):
    losses: RunningMean
    scores: RunningMean


class Prequential:
    """Counts reports of a trainer; one thread counts, any may read.

    Args:
        score: name of the score, such as the objective's headline; `loss` for the loss itself.
        window_steps: steps of the window.
        fading_factor: alpha, what a step is worth when the next has come; below 1.
        most_tasks: tasks told apart, the first to come; the rest goes under `OTHER_TASKS`.
        score_every_steps: take the score of every so many steps; 1 for all.

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
        score_every_steps: int = 1,
    ) -> None:
        self.score = score
        self._window_steps = window_steps
        self._score_every_steps = score_every_steps
        self._steps = 0
        empty = RunningMean(window_steps, fading_factor, most_tasks)
        # replaced together, so that a reader who has this tuple has every step once
        self._state: tuple[_Sums, list[Losses], list[Score]] = (_Sums(empty, empty), [], [])

    def count(self, batch: Batch, report: StepReport) -> None:
        """Count the step that trained the fresh rows of `batch`, right after it."""
        rows = report.fresh_samples
        if report.skipped or rows == 0:
            return
        self._steps += 1
        tasks = batch.provenance.numpy()[:rows, _TASK].copy()
        _, losses, scores = self._state
        if self.score != "loss" and (self._steps - 1) % self._score_every_steps == 0:
            scores += self._scores(tasks, report)
        losses.append(Losses(self._steps, tasks, report.losses))
        if len(losses) >= self._window_steps:
            self.fold()

    def _scores(self, tasks: NDArray[np.int64], report: StepReport) -> list[Score]:
        first = int(tasks[0])
        if (tasks == first).all():
            return [Score(self._steps, first, len(tasks), report.scores[self.score])]
        found = []
        for task in np.unique(tasks).tolist():
            rows = torch.from_numpy(np.flatnonzero(tasks == task))
            value = report.scores_of(rows)[self.score]
            found.append(Score(self._steps, task, len(rows), value))
        return found

    def fold(self) -> None:
        """Add up what waits; by the thread that counts."""
        self._state = (self._sums(), [], [])

    # figures, by any thread

    def mean(self) -> PrequentialFigures:
        """Over all rows so far."""
        losses, scores = self._readable()
        return PrequentialFigures(*losses.mean(), scores.mean()[1])

    def fading(self) -> PrequentialFigures:
        """Over all rows, the older the less; `samples` are those that still count, rounded."""
        losses, scores = self._readable()
        return PrequentialFigures(round(losses.fading_rows), losses.faded(), scores.faded())

    def window(self) -> PrequentialFigures:
        """Over the rows of the last `window_steps` steps."""
        losses, scores = self._readable()
        return PrequentialFigures(*losses.window(), scores.window()[1])

    def by_task(self) -> dict[int, PrequentialFigures]:
        """Task -> over all its rows so far."""
        losses, scores = self._readable()
        score_of = scores.by_task()
        return {
            task: PrequentialFigures(rows, loss, score_of.get(task, (0, float("nan")))[1])
            for task, (rows, loss) in losses.by_task().items()
        }

    @property
    def tasks(self) -> tuple[int, ...]:
        """The tasks of which rows were counted, those that are told apart."""
        return tuple(task for task in self._sums().losses.tasks if task != OTHER_TASKS)

    def _readable(self) -> _Sums:
        sums = self._sums()
        return _Sums(sums.losses, sums.losses) if self.score == "loss" else sums

    def _sums(self) -> _Sums:
        """What is folded, and what waits added to it."""
        (losses, scores), some_losses, some_scores = self._state
        waiting, scored = list(some_losses), list(some_scores)
        if waiting:
            losses = losses.with_values(_loss_values(waiting), waiting[-1].step)
        if scored:
            scores = scores.with_values(_score_values(scored), scored[-1].step)
        return _Sums(losses, scores)

    def state_dict(self) -> dict[str, Any]:
        """What is added up, and what waits as it is: adding up earlier would round otherwise."""
        (losses, scores), waiting, scored = self._state
        pending = _loss_values(waiting) if waiting else None
        return {
            "steps": self._steps,
            "losses": losses.state_dict(),
            "scores": scores.state_dict(),
            "waiting_steps": [each.step for each in waiting],
            "waiting_tasks": [each.tasks.tolist() for each in waiting],
            "waiting_losses": None if pending is None else pending.values,
            "scored": [[each.step, each.task, each.rows] for each in scored],
            "scored_values": torch.stack([each.value for each in scored]) if scored else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        (losses, scores), _, _ = self._state
        self._steps = int(state["steps"])
        sums = _Sums(losses.of_state(state["losses"]), scores.of_state(state["scores"]))
        tasks = [np.array(each, np.int64) for each in state["waiting_tasks"]]
        waiting, scored = [], []
        if tasks:
            parts = state["waiting_losses"].clone().split([len(each) for each in tasks])
            waiting = list(map(Losses, state["waiting_steps"], tasks, parts))
        if state["scored"]:
            values = state["scored_values"].clone().unbind()
            scored = [
                Score(step, task, rows, value)
                for (step, task, rows), value in zip(state["scored"], values, strict=True)
            ]
        self._state = (sums, waiting, scored)


def _loss_values(waiting: list[Losses]) -> Values:
    counts = [len(each.tasks) for each in waiting]
    return Values(
        np.repeat(np.array([each.step for each in waiting], np.int64), counts),
        np.concatenate([each.tasks for each in waiting]),
        np.ones(sum(counts), np.int64),
        torch.cat(
            [
                losses if len(losses) == n else losses[:n]
                for (_, _, losses), n in zip(waiting, counts, strict=True)
            ]
        ),
    )


def _score_values(waiting: list[Score]) -> Values:
    steps, tasks, rows = (
        np.array(column, np.int64) for column in list(zip(*waiting, strict=True))[:3]
    )
    return Values(steps, tasks, rows, torch.stack([each.value for each in waiting]))
