"""The replays of a log side by side: a table, a file, and curves."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from insitu_service.replay.result import WINDOW_STEPS, ReplayResult

_FIGURES = ("average", "learning_average", "forgetting", "backward_transfer")


def table(results: Sequence[ReplayResult]) -> Table:
    """A row a configuration."""
    shown = Table(title="one stream, each sample predicted before it was learned from")
    shown.add_column("configuration", no_wrap=True)
    score = results[0].metric.replace("_", " ")
    headings = ("steps", "samples", "loss", score, *_FIGURES, "seconds")
    for heading in headings:
        shown.add_column(heading.replace("_", " "), justify="right", no_wrap=True)
    for result in results:
        figures = [_text(result.figures.get(name, math.nan)) for name in _FIGURES]
        shown.add_row(
            result.name,
            f"{result.steps:,}",
            f"{result.samples:,}",
            _text(result.loss),
            _text(result.score),
            *figures,
            f"{result.seconds:.1f}",
        )
    return shown


def save(results: Sequence[ReplayResult], directory: Path) -> Path:
    """Everything, as JSON."""
    path = directory / "replay.json"
    path.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n")
    return path


def draw(results: Sequence[ReplayResult], directory: Path) -> Path:
    """The loss over the steps, a curve a configuration."""
    from matplotlib.figure import Figure

    from insitu_service.palette import COLOURS, MARKERS

    figure = Figure(figsize=(7.0, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for index, result in enumerate(results):
        windows = len(result.losses)
        steps = [min((place + 1) * WINDOW_STEPS, result.steps) for place in range(windows)]
        colour = COLOURS[index % len(COLOURS)]
        marker = MARKERS[index % len(MARKERS)] if windows <= 30 else ""  # one point has no line
        axes.plot(
            steps, result.losses,
            color=colour, marker=marker, markersize=4, linewidth=1.6, label=result.name,
        )  # fmt: skip
    axes.set_xlabel("step")
    axes.set_ylabel(f"loss of fresh samples, mean of {WINDOW_STEPS} steps")
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    path = directory / "replay.png"
    figure.savefig(path, dpi=130)
    return path


def _text(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4g}"
