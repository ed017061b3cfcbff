"""Compare a measurement with its floor: in turn, several times, the median of the ratios."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Comparison:
    """One figure against its floor.

    Args:
        name: what was measured.
        unit: of `value` and `floor`.
        value, floor: medians over the rounds.
        ratio: median over the rounds of value / floor of the same round.
        target: the bound on `ratio`.
        at_least: whether the target is a lower bound (throughput) or an upper bound (cost).
    """

    name: str
    unit: str
    value: float
    floor: float
    ratio: float
    target: float
    at_least: bool

    @property
    def reached(self) -> bool:
        return self.ratio >= self.target if self.at_least else self.ratio <= self.target


def compare(
    name: str,
    unit: str,
    measured: Sequence[float],
    floors: Sequence[float],
    *,
    target: float,
    at_least: bool,
) -> Comparison:
    """Pair the rounds of a figure with those of its floor."""
    ratios = [value / floor for value, floor in zip(measured, floors, strict=True)]
    return Comparison(
        name,
        unit,
        statistics.median(measured),
        statistics.median(floors),
        statistics.median(ratios),
        target,
        at_least,
    )


def in_turn(rounds: int, *measures: Callable[[], float]) -> list[list[float]]:
    """Run the measures in turn, `rounds` times: [[of the first], [of the second], ...]."""
    results: list[list[float]] = [[] for _ in measures]
    for _ in range(rounds):
        for result, measure in zip(results, measures, strict=True):
            result.append(measure())
    return results


def print_table(title: str, comparisons: Sequence[Comparison]) -> None:
    """A table of figures, floors, ratios and targets on standard output."""
    table = Table(title=title, title_justify="left")
    for column in ("figure", "measured", "floor", "unit", "ratio", "target", ""):
        table.add_column(column, justify="left" if column in ("figure", "unit") else "right")
    for c in comparisons:
        bound = f"{'>=' if c.at_least else '<='} {c.target:g}"
        verdict = "reached" if c.reached else "missed"
        row = (f"{c.value:.4g}", f"{c.floor:.4g}", c.unit, f"{c.ratio:.3f}", bound, verdict)
        table.add_row(c.name, *row)
    Console(width=110, soft_wrap=True).print(table)
