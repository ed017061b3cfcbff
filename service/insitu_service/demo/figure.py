"""The demo's picture: how the result on every task goes, for both ways to learn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from insitu_service.demo.outcome import Outcome
from insitu_service.demo.scenario import Scenario
from insitu_service.palette import COLOURS, MARKERS

Results = Mapping[Scenario, Mapping[str, Outcome]]


def save_figure(results: Results, path: Path) -> None:
    """Write a PNG: a row a scenario; curves of each variant, then bars of the end beside."""
    columns = max(len(outcomes) for outcomes in results.values()) + 1
    figure = Figure(figsize=(4.4 * columns, 3.9 * len(results)), layout="constrained")
    grid = figure.subplots(len(results), columns, squeeze=False)
    for row, (scenario, outcomes) in zip(grid, results.items(), strict=True):
        limits = _limits(outcomes.values())
        for axes, (variant, outcome) in zip(row, outcomes.items(), strict=False):
            _curves(axes, scenario, outcome)
            axes.set_title(f"{scenario.name}: {variant}", fontsize=11)
            axes.set_ylim(*limits)
        _bars(row[-1], scenario, outcomes)
        row[-1].set_ylim(*limits)
    figure.savefig(path, dpi=130)


def _limits(outcomes: Iterable[Outcome]) -> tuple[float, float]:
    """From 0 to above the largest result, with room for the legend."""
    values = [
        value
        for outcome in outcomes
        for curve in outcome.curves.values()
        for value in curve
        if value is not None
    ]
    return 0.0, 1.22 * max(values, default=1.0)


def _curves(axes: Axes, scenario: Scenario, outcome: Outcome) -> None:
    names = [task.task for task in outcome.tasks]
    for index, name in enumerate(names):
        values = [np.nan if v is None else v for v in outcome.curves[name][index:]]
        axes.plot(
            range(index, len(names)),
            values,
            color=COLOURS[index % len(COLOURS)],
            marker=MARKERS[index % len(MARKERS)],
            linewidth=2,
            label=name,
        )
    axes.set_xticks(range(len(names)), names)
    axes.set_xlabel(f"after learning {scenario.task_word} ...")
    axes.set_ylabel(_axis_label(outcome))
    _quiet(axes)


def _bars(axes: Axes, scenario: Scenario, outcomes: Mapping[str, Outcome]) -> None:
    width = 0.8 / len(outcomes)
    hatches = ("//", "", "..")
    for index, (variant, outcome) in enumerate(outcomes.items()):
        places = np.arange(len(outcome.tasks)) + (index - (len(outcomes) - 1) / 2) * width
        axes.bar(
            places,
            [task.at_the_end for task in outcome.tasks],
            width,
            color=("#BBBBBB", "#0072B2", "#E69F00")[index % 3],
            edgecolor="white",
            hatch=hatches[index % 3],
            label=variant,
        )
        axes.plot(
            places,
            [task.right_after for task in outcome.tasks],
            linestyle="none",
            marker="_",
            markersize=18,
            markeredgewidth=2,
            color="black",
            label="right after learning it" if index == 0 else None,
        )
    first = next(iter(outcomes.values()))
    axes.set_xticks(range(len(first.tasks)), [task.task for task in first.tasks])
    axes.set_xlabel(scenario.task_word)
    axes.set_title(f"{scenario.name}: at the end of the stream", fontsize=11)
    axes.set_ylabel(_axis_label(first))
    _quiet(axes)


def _axis_label(outcome: Outcome) -> str:
    better = "higher" if outcome.higher_is_better else "lower"
    return f"{outcome.metric.replace('_', ' ')}, held out ({better} is better)"


def _quiet(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(
        loc="upper center", ncols=5, fontsize=8, frameon=False, columnspacing=1, handletextpad=0.4
    )
