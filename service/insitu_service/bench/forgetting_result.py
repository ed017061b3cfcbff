"""What one run of `insitu bench forgetting` found, and the figures over several."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from insitu.evaluation import EvaluationMatrix


@dataclass(frozen=True)
class Moment:
    """The results at one moment of the stream, by task."""

    samples: int
    results: Mapping[str, float]


@dataclass(frozen=True)
class RunResult:
    """One variant on one seed.

    Args:
        metric: the figure that was measured; `higher_is_better` says which way is up.
        tasks: columns of the matrix.
        ended: the task that ended before each row.
        matrix: result by row and column; None where nothing was measured.
        curve: the results at every measurement, in the order of the stream.
        samples, steps: that were trained.
        seconds: of the run without measuring; through a service with it.
    """

    variant: str
    seed: int
    metric: str
    higher_is_better: bool
    tasks: tuple[str, ...]
    ended: tuple[str, ...]
    matrix: tuple[tuple[float | None, ...], ...]
    curve: tuple[Moment, ...]
    samples: int
    steps: int
    seconds: float

    def figures(self) -> dict[str, float]:
        """Every figure of `FIGURES` by name; NaN where it is not defined."""
        return {name: figure.of(self) for name, figure in FIGURES.items()}

    def save(self, path: Path) -> None:
        """Write JSON; whole or not at all."""
        unfinished = path.with_suffix(".part")
        unfinished.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        unfinished.replace(path)

    @classmethod
    def load(cls, path: Path) -> RunResult:
        return cls.of(json.loads(path.read_text(encoding="utf-8")))

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> RunResult:
        """From plain data, as `save` writes it."""
        moments = tuple(Moment(each["samples"], each["results"]) for each in plain["curve"])
        rows = tuple(tuple(row) for row in plain["matrix"])
        tasks, ended = tuple(plain["tasks"]), tuple(plain["ended"])
        return cls(**{**plain, "curve": moments, "matrix": rows, "tasks": tasks, "ended": ended})

    def as_matrix(self) -> EvaluationMatrix:
        """The library's own matrix, whose figures are defined there."""
        matrix = EvaluationMatrix(self.metric, higher_is_better=self.higher_is_better)
        index = {name: number for number, name in enumerate(self.tasks)}
        for ended, row in zip(self.ended, self.matrix, strict=True):
            results = {i: value for i, value in enumerate(row) if value is not None}
            matrix.record(index.setdefault(ended, len(index)), results)
        return matrix


def _of_matrix(name: str) -> Callable[[RunResult], float]:
    def of(run: RunResult) -> float:
        return float(getattr(run.as_matrix(), name)())

    return of


def _average(run: RunResult) -> float:
    """Over all tasks with probes, learned one by one or together."""
    newest = run.curve[-1].results.values() if run.curve else ()
    return sum(newest) / len(newest) if newest else math.nan


@dataclass(frozen=True)
class Figure:
    """A column of the table."""

    title: str
    meaning: str
    of: Callable[[RunResult], float]


#: what the table shows, in this order
FIGURES: dict[str, Figure] = {
    "average": Figure("average", "mean over all tasks at the end", _average),
    "forgetting": Figure(
        "forgetting", "by how much a task is worse than at its best", _of_matrix("forgetting")
    ),
    "backward_transfer": Figure(
        "BWT", "gain on a task since it was learned", _of_matrix("backward_transfer")
    ),
}


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


def by_variant(runs: Sequence[RunResult]) -> dict[str, list[RunResult]]:
    """The runs of every variant, in the order of their first."""
    groups: dict[str, list[RunResult]] = {}
    for run in runs:
        groups.setdefault(run.variant, []).append(run)
    return groups
