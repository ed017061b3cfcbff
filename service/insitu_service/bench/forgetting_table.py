"""The table of `insitu bench forgetting`: mean and standard deviation over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rich.table import Table

from insitu_service.bench.forgetting_result import (
    RunResult,
    Spread,
    by_variant,
    score_summary,
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


def score_table(runs: Sequence[RunResult], *, every_end: bool = False) -> Table:
    """Every score of the objective, its mean over the tasks begun, at the last end or at each."""
    rows: list[tuple[str, str, dict[str, Spread]]] = []
    for name, group in by_variant(runs).items():
        ends = min(len(run.rows) for run in group)
        for end in range(0 if every_end else ends - 1, ends):
            rows.append((name, str(end + 1), score_summary(group, end)))
    headings = list(dict.fromkeys(key for *_, scores in rows for key in scores))
    shown = Table(title="mean over the tasks begun, where one ends", title_justify="left")
    for heading in ("strategies", "ends", *(key.replace("_", " ") for key in headings)):
        shown.add_column(heading, justify="left" if heading == "strategies" else "right")
    nothing = Spread(math.nan, math.nan)
    for name, number, scores in rows:
        shown.add_row(name, number, *(text(scores.get(key, nothing)) for key in headings))
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
