"""What one run of `insitu bench forgetting` found, and the figures over several."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from insitu.evaluation import EvaluationMatrix
from insitu.evaluation.matrix import FIGURES


@dataclass(frozen=True)
class Moment:
    """A measurement.

    Args:
        samples: trained by then.
        results: by task.
        ended: the task that had just ended; None in between.
        begun: tasks of which samples were trained by then; none: of the untrained model.
        scores: every figure's mean over these; through a service none.
    """

    samples: int
    results: Mapping[str, float]
    ended: str | None
    begun: tuple[str, ...]
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RunResult:
    """One variant on one seed.

    Args:
        metric: the figure that was measured; `higher_is_better` says which way is up.
        curve: all measurements, in the order of the stream.
        samples, steps: that were trained.
        seconds: of the run without measuring; through a service with it.
        told: figures as a service tells them, which saw more measurements than it shows.
        skipped_steps: of the steps, those that changed nothing, since loss or gradient was no
            number; many of them mean that the learning diverged.
    """

    variant: str
    seed: int
    metric: str
    higher_is_better: bool
    curve: tuple[Moment, ...]
    samples: int
    steps: int
    seconds: float
    told: Mapping[str, float | None] | None = None
    skipped_steps: int = 0

    @property
    def rows(self) -> list[Moment]:
        """The measurements at the ends of tasks."""
        return [moment for moment in self.curve if moment.ended is not None]

    @property
    def tasks(self) -> list[str]:
        """The tasks that were measured, in the order of their first result: the columns."""
        return list(dict.fromkeys(task for moment in self.curve for task in moment.results))

    @property
    def ended(self) -> list[str]:
        """The task that ended before each row of the matrix."""
        return [str(moment.ended) for moment in self.rows]

    @property
    def matrix(self) -> list[list[float | None]]:
        """Result by row and column; None where nothing was measured."""
        return [[moment.results.get(task) for task in self.tasks] for moment in self.rows]

    def figures(self) -> dict[str, float]:
        """Every figure of the library's matrix by its name; NaN where it is not defined."""
        # all tasks were learned together, and not one of them alone
        joint = bool(self.rows) and self.rows[-1].ended not in self.tasks
        newest = list(self.rows[-1].results.values()) if self.rows else []
        average = {"average": sum(newest) / len(newest)} if joint and newest else {}
        figures = self._as_matrix().figures()
        if self.told is not None:
            figures = {
                name: math.nan if value is None else value
                for name, value in self.told.items()
                if name in FIGURES
            }
        return {**figures, **average}

    def _as_matrix(self) -> EvaluationMatrix:
        matrix = EvaluationMatrix(self.metric, higher_is_better=self.higher_is_better)
        names = dict.fromkeys((*self.tasks, *self.ended))
        index = {name: number for number, name in enumerate(names)}
        for moment in self.curve:
            results = {index[task]: value for task, value in moment.results.items()}
            if not moment.begun:
                matrix.record_untrained(results)
            elif moment.ended is None:
                matrix.observe(results, [index[task] for task in moment.begun if task in index])
            else:
                matrix.record(index[moment.ended], results)
        return matrix

    def save(self, path: Path) -> None:
        """Write JSON; whole or not at all."""
        unfinished = path.with_suffix(".part")
        unfinished.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        unfinished.replace(path)

    @classmethod
    def load(cls, path: Path) -> RunResult:
        plain = json.loads(path.read_text(encoding="utf-8"))
        curve = (Moment(**{**each, "begun": tuple(each["begun"])}) for each in plain["curve"])
        return cls(**{**plain, "curve": tuple(curve)})


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over seeds; the deviation is NaN of a single one."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of those that are numbers.

        Example:
            >>> Spread.of([1.0, 3.0, float("nan")])
            Spread(mean=2.0, deviation=1.4142135623730951)
        """
        known = [value for value in values if not math.isnan(value)]
        if not known:
            return cls(math.nan, math.nan)
        return cls(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else math.nan)


def summary(runs: Sequence[RunResult]) -> dict[str, Spread]:
    """Every figure over the seeds of one variant, and the seconds."""
    every = [run.figures() for run in runs]
    spreads = {name: Spread.of([figures[name] for figures in every]) for name in FIGURES}
    return {**spreads, "seconds": Spread.of([run.seconds for run in runs])}


def score_summary(runs: Sequence[RunResult], end: int) -> dict[str, Spread]:
    """The `scores` at the end of that number, -1 the last, over the seeds of one variant."""
    scores = [run.rows[end].scores for run in runs if run.rows]
    names = dict.fromkeys(name for each in scores for name in each)
    return {name: Spread.of([each[name] for each in scores if name in each]) for name in names}


def by_variant(runs: Sequence[RunResult]) -> dict[str, list[RunResult]]:
    """The runs of every variant, in the order of their first."""
    groups: dict[str, list[RunResult]] = {}
    for run in runs:
        groups.setdefault(run.variant, []).append(run)
    return groups
