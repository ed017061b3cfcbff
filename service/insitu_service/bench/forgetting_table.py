"""The table of `insitu bench forgetting`: mean and standard deviation over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rich.table import Table

from insitu_service.bench.forgetting_result import (
    RunResult,
    Spread,
    by_variant,
    end_summary,
    summary,
)

#: figures of the library's matrix that table and bars show, with short titles; files have all
SHOWN: Mapping[str, str] = {
    "average": "average",
    "learning_average": "learning",
    "forgetting": "forgetting",
    "backward_transfer": "BWT",
    "forward_transfer": "FWT",
    "average_anytime": "anytime",
    "worst_case": "worst case",
    "seconds": "seconds",
}


def table(runs: Sequence[RunResult], title: str) -> Table:
    """Mean and standard deviation over seeds, a row a variant."""
    shown = Table(title=f"{title}: {runs[0].metric}", title_justify="left")
    shown.add_column("strategies", no_wrap=True)
    for heading in SHOWN.values():
        shown.add_column(heading, justify="right", no_wrap=True)
    for name, group in by_variant(runs).items():
        spreads = summary(group)
        shown.add_row(name, *(text(spreads[key]) for key in SHOWN))
    return shown


def table_at_the_end(runs: Sequence[RunResult]) -> Table:
    """Every score of the objective at the end, mean over tasks, a row a variant."""
    groups = by_variant(runs)
    spreads = {name: end_summary(group) for name, group in groups.items()}
    headings = list(dict.fromkeys(key for each in spreads.values() for key in each))
    shown = Table(title="at the end, mean over tasks", title_justify="left")
    shown.add_column("strategies", no_wrap=True)
    for heading in headings:
        shown.add_column(heading.replace("_", " "), justify="right", no_wrap=True)
    for name, found in spreads.items():
        nothing = Spread(math.nan, math.nan)
        shown.add_row(name, *(text(found.get(key, nothing)) for key in headings))
    return shown


def text(spread: Spread) -> str:
    """A mean with its deviation.

    Example:
        >>> text(Spread(0.5, 0.125)), text(Spread(0.5, math.nan)), text(Spread(math.nan, math.nan))
        ('0.500 ± 0.125', '0.500', '-')
    """
    if math.isnan(spread.mean):
        return "-"
    digits = 3 if abs(spread.mean) < 10 else 1
    mean = f"{spread.mean:.{digits}f}"
    return mean if math.isnan(spread.deviation) else f"{mean} ± {spread.deviation:.{digits}f}"
