"""What the learner has done so far, in numbers; written by the learner, read by everybody.

Plain attributes that only grow, and the newest report as it is. Readers see each of them whole
(Python's attribute reads are atomic) and turn a loss that still lies on a device into a number
only when somebody asks.
"""

from __future__ import annotations

import time
from collections import Counter

from torch import Tensor

from insitu.report import PHASES, StepReport

#: how often a reader tries to score a step before the learner is two steps ahead of it
_ATTEMPTS = 10


class Tally:
    """Counters over the life of this process."""

    def __init__(self) -> None:
        self.steps = 0
        self.skipped_steps = 0
        self.roll_backs = 0
        self.out_of_memory_retries = 0
        self.task_ends = 0
        self.last_boundary_at = 0.0  # that was detected or declared by command
        self.fresh_samples = 0
        self.skipped_samples = 0
        self.replayed_samples = 0
        self.phase_seconds = dict.fromkeys(PHASES, 0.0)
        self.age_seconds_sum = 0.0
        self.age_samples = 0
        self.alerts: Counter[str] = Counter()
        self.last_report: StepReport | None = None
        self.gradient_norm: Tensor | None = None  # the newest that was taken
        self.last_step_at = 0.0
        self._scores: dict[str, float] = {}

    def scores(self) -> dict[str, float]:
        """The scores of the newest step that could be scored in time.

        They are computed here, by the reader, from rows that lie in a block which is filled again
        three batches later. So what was scored while the learner went on is not used.
        """
        for _ in range(_ATTEMPTS):
            report = self.last_report
            if report is None:
                break
            scores = {name: float(score) for name, score in report.scores.items()}
            newest = self.last_report
            if newest is not None and newest.step - report.step in (0, 1):
                self._scores = scores
                break
        return self._scores

    def count(self, report: StepReport, wait_seconds: float, copy_seconds: float) -> None:
        """One step more."""
        now = time.time()
        self.steps += 1
        self.skipped_steps += report.skipped
        if report.skipped:
            self.skipped_samples += report.fresh_samples
        else:
            self.fresh_samples += report.fresh_samples
            self.replayed_samples += report.replayed_samples
        seconds = self.phase_seconds
        for phase, spent in report.phase_seconds.items():
            seconds[phase] += spent
        seconds["wait"] += wait_seconds
        seconds["copy"] += copy_seconds
        if report.produced_at_ns:
            age = max(0.0, now - report.produced_at_ns / 1e9)
            self.age_seconds_sum += age * report.fresh_samples
            self.age_samples += report.fresh_samples
        self.last_report = report
        if report.gradient_norm is not None:
            self.gradient_norm = report.gradient_norm
        self.last_step_at = now

    def non_finite_loss(self, fresh_samples: int) -> None:
        """A step that was broken off before its update, with so many samples of the stream."""
        self.skipped_samples += fresh_samples

    def rolled_back(self) -> None:
        self.roll_backs += 1

    def boundary_declared(self) -> None:
        """A boundary that no producer told of."""
        self.last_boundary_at = time.time()

    def task_ended(self) -> None:
        self.task_ends += 1


class Rate:
    """A rate between two looks of one watcher, by its own clock."""

    def __init__(self) -> None:
        self._count = 0.0
        self._at = time.monotonic()
        self._rate = 0.0

    def of(self, count: float, least_seconds: float = 0.5) -> float:
        """Per second since the last look at least `least_seconds` ago."""
        now = time.monotonic()
        if now - self._at >= least_seconds:
            self._rate = (count - self._count) / (now - self._at)
            self._count, self._at = count, now
        return self._rate
