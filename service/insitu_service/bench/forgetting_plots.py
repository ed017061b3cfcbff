"""The pictures of `insitu bench forgetting`: curves, matrices as heat maps, bars with spread."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from insitu_service.bench.forgetting_result import RunResult, summary
from insitu_service.bench.forgetting_table import SHOWN
from insitu_service.palette import COLOURS, MARKERS

Groups = Mapping[str, Sequence[RunResult]]

_COLUMNS = 4


def task_labels(runs: Sequence[RunResult], *, ended: bool = False) -> list[str]:
    """The names of the tasks measured, or of those that ended; where seeds draw tasks of their own
    names, their numbers, from 1."""
    names = [run.ended if ended else run.tasks for run in runs]
    if all(each == names[0] for each in names):
        return names[0]
    return [f"task {number + 1}" for number in range(min(map(len, names)))]


def save_curves(groups: Groups, path: Path) -> None:
    """A panel a variant: the result on every task over the samples trained, mean and spread."""
    figure, panels = _panels(len(groups), width=3.0, height=2.6)
    low, high = _limits(groups)
    for axes, (name, runs) in zip(panels, groups.items(), strict=False):
        for index, task in enumerate(task_labels(runs)):
            _curve(axes, task, index, runs)
        axes.set_title(name, fontsize=10)
        # a little room, so that a mark at 0 or 1 is whole
        axes.set_ylim(low - 0.04 * (high - low), high + 0.04 * (high - low))
        axes.grid(axis="y", color="#DDDDDD", linewidth=0.8)
    figure.supxlabel("samples trained", fontsize=10)
    figure.supylabel(_label(runs[0]), fontsize=10)
    if len(task_labels(runs)) <= 20:
        figure.legend(
            *panels[0].get_legend_handles_labels(),
            loc="outside upper center",
            ncols=min(len(task_labels(runs)), 4 * min(len(groups), _COLUMNS)),
            fontsize=8,
            frameon=False,
        )
    figure.savefig(path, dpi=130)


def _curve(axes: Axes, task: str, index: int, runs: Sequence[RunResult]) -> None:
    """One task; only moments that all seeds have in common make a mean."""
    by_seed = [
        {m.samples: m.results[own] for m in run.curve if (own := run.tasks[index]) in m.results}
        for run in runs
    ]
    places = sorted(set.intersection(*(set(each) for each in by_seed)))
    if not places:
        return
    values = np.array([[each[place] for place in places] for each in by_seed])
    mean, colour = values.mean(axis=0), COLOURS[index % len(COLOURS)]
    marker = MARKERS[index % len(MARKERS)] if len(places) <= 30 else ""
    axes.plot(places, mean, color=colour, marker=marker, markersize=4, linewidth=1.6, label=task)
    if len(runs) > 1:
        deviation = values.std(axis=0, ddof=1)
        axes.fill_between(places, mean - deviation, mean + deviation, color=colour, alpha=0.15)


def save_matrices(groups: Groups, path: Path) -> None:
    """A panel a variant: result by task that ended (down) and task measured (across), mean."""
    figure, panels = _panels(len(groups), width=3.0, height=2.8)
    low, high = _limits(groups)
    for axes, (name, runs) in zip(panels, groups.items(), strict=False):
        values = mean_matrix(runs)
        image = axes.imshow(values, vmin=low, vmax=high, cmap="viridis", aspect="auto")
        axes.set_title(name, fontsize=10)
        axes.set_xticks(range(values.shape[1]), task_labels(runs), rotation=45, fontsize=7)
        axes.set_yticks(range(values.shape[0]), task_labels(runs, ended=True), fontsize=7)
        if values.size <= 60:
            _write_values(axes, values, (low + high) / 2)
    figure.supxlabel("measured on", fontsize=10)
    figure.supylabel("after learning", fontsize=10)
    figure.colorbar(image, ax=list(panels), label=_label(runs[0]), fraction=0.03, aspect=40)
    figure.savefig(path, dpi=130)


def mean_matrix(runs: Sequence[RunResult]) -> np.ndarray:
    """(rows, tasks) mean over seeds; NaN where nothing was measured."""
    matrices = [
        [[math.nan if value is None else value for value in row] for row in run.matrix]
        for run in runs
    ]
    return np.asarray(np.mean(np.array(matrices, float), axis=0))


def _write_values(axes: Axes, values: np.ndarray, middle: float) -> None:
    for (row, column), value in np.ndenumerate(values):
        if not math.isnan(value):
            colour = "white" if value < middle else "black"
            axes.text(
                column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour
            )


def save_bars(groups: Groups, path: Path) -> None:
    """A panel a figure: the mean of every variant, with one standard deviation."""
    figure, panels = _panels(len(SHOWN), width=2.6, height=0.9 + 0.21 * len(groups))
    summaries = {name: summary(runs) for name, runs in groups.items()}
    places = range(len(summaries))
    for index, (axes, (key, title)) in enumerate(zip(panels, SHOWN.items(), strict=True)):
        spreads = [each[key] for each in summaries.values()]
        axes.barh(
            places,
            [spread.mean for spread in spreads],
            xerr=[0.0 if math.isnan(s.deviation) else s.deviation for s in spreads],
            error_kw={"elinewidth": 1.0, "capsize": 2},
            color=[COLOURS[place % len(COLOURS)] for place in places],
        )
        axes.set_title(title, fontsize=10)
        # names once a row; the first variant on top, also where it has no such figure
        axes.set_yticks(places, list(summaries) if index % _COLUMNS == 0 else [], fontsize=8)
        axes.set_ylim(len(summaries) - 0.5, -0.5)
        axes.axvline(0.0, color="black", linewidth=0.8)
        axes.locator_params(axis="x", nbins=5)
        axes.tick_params(axis="x", labelsize=8)
        axes.grid(axis="x", color="#DDDDDD", linewidth=0.8)
        axes.set_axisbelow(True)
    figure.savefig(path, dpi=130)


def _panels(count: int, *, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels of this size, in inches."""
    columns = min(count, _COLUMNS)
    rows = -(-count // columns)
    size = (width * columns + 0.8, height * rows + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in panels[count:]:
        spare.set_visible(False)
    return figure, panels[:count]


def _limits(groups: Groups) -> tuple[float, float]:
    """Of all results: 0 to 1 for a share, else what there is, cut where a few run away."""
    values = [
        value
        for runs in groups.values()
        for run in runs
        for moment in run.curve
        for value in moment.results.values()
        if math.isfinite(value)
    ]
    if not values or (min(values) >= 0 and max(values) <= 1):
        return 0.0, 1.0
    low, high = float(min(values)), float(np.quantile(values, 0.95))
    return low, high if high > low else low + 1.0


def _label(run: RunResult) -> str:
    better = "higher" if run.higher_is_better else "lower"
    return f"{run.metric.replace('_', ' ')}, held out ({better} is better)"
