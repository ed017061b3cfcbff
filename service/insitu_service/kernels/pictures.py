"""The pictures of `insitu kernels`: kernels, their change, their change by task, who wins when."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from torch import Tensor

from insitu.analysis.kernels import KernelTable
from insitu_service.kernels.hinton import draw_hinton
from insitu_service.kernels.moments import Moment, changes_by_task, ordered, shares_between
from insitu_service.kernels.tiles import (
    PROTECTED,
    as_images,
    as_matrix,
    beside,
    grid,
    largest,
    panels_of,
    strongest,
    tiles_that_fit,
)

_DPI = 130
_MOST_ROWS, _MOST_COLUMNS = 64, 96


def save_pictures(
    moments: Sequence[Moment], folder: Path, column: str
) -> tuple[list[Path], list[str]]:
    """Write what can be drawn of every layer of the last moment.

    Args:
        moments: in the order of their steps.
        folder: made if it is not there.
        column: by which kernels are sorted.

    Returns:
        The files, and in words what could not be drawn and why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written, left_out = [], []
    drawn: dict[str, Callable[[Sequence[Moment], str, str], Figure | str]] = {
        "kernels": _kernels,
        "change": _change,
        "tasks": _tasks,
        "winners": _winners,
    }
    for layer in moments[-1].tables:
        for name, draw in drawn.items():
            figure = draw(moments, layer, column)
            if isinstance(figure, str):
                left_out.append(f"{layer}: no picture of {name}: {figure}")
                continue
            path = folder / f"{name}-{layer or 'model'}.png"
            figure.savefig(path, dpi=_DPI)
            written.append(path)
    return written, left_out


def _kernels(moments: Sequence[Moment], layer: str, column: str) -> Figure | str:
    """Each kernel by its own largest weight: three channels as colours, others side by side."""
    last = moments[-1]
    table = last.tables[layer]
    weights = last.weights[layer].float()
    images = as_images(weights, first=layer == next(iter(last.tables)))
    if images is None:
        return _weight_matrix(as_matrix(weights), last.step, table, column)
    _, channels, height, width = images.shape
    across = width if channels == 3 else beside(channels, width)
    chosen = ordered(table, column)[: tiles_that_fit(height, across)[1]]
    shown = _of(len(chosen), table.shape[0], "kernels")
    colours_mean = "" if channels == 3 else ", red above 0, blue below"
    title = f"{layer}, step {last.step:,}: {shown}{_by(column)}{colours_mean}"
    figure, panels = grid(chosen, height, across, table.columns.get("protected"), title)
    for kernel, axes in panels:
        image = images[kernel] / largest(images[kernel])
        if channels == 3:
            axes.imshow((0.5 + 0.5 * image).permute(1, 2, 0).numpy(), interpolation="nearest")
        else:
            colours = colormaps["RdBu_r"].with_extremes(bad="white")
            axes.imshow(panels_of(image).numpy(), vmin=-1.0, vmax=1.0, cmap=colours)
    return figure


def _change(moments: Sequence[Moment], layer: str, column: str) -> Figure | str:
    """What the weights are now, less what they were at the first moment."""
    if len(moments) < 2:
        return "there is only one checkpoint"
    first, last = moments[0], moments[-1]
    table = last.tables[layer]
    change = (last.weights[layer] - first.weights[layer]).float()
    if not bool(change.any()):
        return f"no weight moved between step {first.step:,} and {last.step:,}"
    span = f"{layer}: change from step {first.step:,} to {last.step:,}, red up, blue down"
    images = as_images(change, first=layer == next(iter(last.tables)))
    if images is None:
        return _change_matrix(as_matrix(change), table, span)
    _, channels, height, width = images.shape
    chosen = strongest(change, tiles_that_fit(height, beside(channels, width))[1])
    side_by_side = ", channels side by side" if channels > 1 else ""
    title = f"{span}\n{_most(len(chosen), table.shape[0], 'kernels')}{side_by_side}"
    protected = table.columns.get("protected")
    figure, panels = grid(chosen, height, beside(channels, width), protected, title)
    scale = largest(images[chosen])
    for kernel, axes in panels:
        draw_hinton(axes, panels_of(images[kernel]).numpy(), scale)
    return figure


def _weight_matrix(matrix: Tensor, step: int, table: KernelTable, column: str) -> Figure:
    """The weights of kernels that are no images, in the order of the table."""
    rows = ordered(table, column)[:_MOST_ROWS]
    title = f"{table.layer}, step {step:,}: weights, red above 0, blue below"
    return _matrix(
        matrix, rows, table, title, _of(len(rows), table.shape[0], "kernels") + _by(column)
    )


def _change_matrix(matrix: Tensor, table: KernelTable, span: str) -> Figure:
    rows = strongest(matrix, _MOST_ROWS)
    return _matrix(matrix, rows, table, span, _most(len(rows), table.shape[0], "kernels"))


def _matrix(
    matrix: Tensor, rows: Sequence[int], table: KernelTable, title: str, label: str
) -> Figure:
    """Kernels down, the channels or inputs that they see across; summed over places."""
    columns = strongest(matrix[rows].t(), _MOST_COLUMNS)
    shown = matrix[rows][:, columns]
    size = 1.6 + 0.13 * len(columns), 1.4 + 0.13 * len(rows)
    figure = Figure(figsize=(max(6.5, size[0]), max(2.0, size[1])), layout="constrained")
    axes = figure.add_subplot()
    draw_hinton(axes, shown.numpy(), largest(shown))
    summed = "\nsummed over places" if len(table.shape) > 2 else ""
    protected = table.columns.get("protected")
    held = [] if protected is None else protected[rows].nonzero().flatten().tolist()
    if held:
        summed += "; marked in orange: protected" if summed else "\nmarked in orange: protected"
        axes.plot(
            [1.015] * len(held), held, "<", color=PROTECTED, markersize=4, clip_on=False,
            transform=axes.get_yaxis_transform(),
        )  # fmt: skip
    figure.suptitle(f"{title}{summed}", fontsize=9)
    axes.set_ylabel(label, fontsize=9)
    across = "channels" if len(table.shape) > 2 else "inputs"
    axes.set_xlabel(_those(len(columns), matrix.shape[1], across), fontsize=9)
    every = slice(None, None, 1 if len(rows) <= 24 else 4)
    axes.set_yticks(range(len(rows))[every], [str(row) for row in rows[every]], fontsize=6)
    axes.set_xticks(
        range(len(columns))[::4], [str(each) for each in columns[::4]], fontsize=6, rotation=90
    )
    return figure


def _tasks(moments: Sequence[Moment], layer: str, column: str) -> Figure | str:
    """How far each kernel went per step, in every task of which that is known."""
    changes = changes_by_task(moments, layer)
    if not changes:
        return "no checkpoint is behind the end of a task that kernel plasticity counted"
    table = moments[-1].tables[layer]
    values = torch.stack(list(changes.values())).double()[:, ordered(table, column)].numpy()
    above = values[values > 0.0]
    norm = LogNorm(above.min(), above.max()) if above.size and above.min() < above.max() else None
    figure = _map(
        np.ma.masked_less_equal(values, 0.0) if norm else values,
        norm or Normalize(0.0, values.max() or 1.0),
        "mean change of a weight per step",
        [f"task {number}" for number in changes],
        table,
        column,
    )
    still = "; white: not at all" if norm is not None and len(above) < values.size else ""
    figure.suptitle(f"{layer}: how far kernels went, task by task{still}", fontsize=10)
    return figure


def _winners(moments: Sequence[Moment], layer: str, column: str) -> Figure | str:
    """Of the images between two checkpoints, those in which a kernel was among the `top`."""
    table = moments[-1].tables[layer]
    tables = [moment.tables[layer] for moment in moments]
    shares = [
        shares_between(before, after)
        for before, after in zip([None, *tables[:-1]], tables, strict=True)
    ]
    known = {
        moment.step: share
        for moment, share in zip(moments, shares, strict=True)
        if share is not None and bool(share.any())
    }
    if not known:
        return "strategy kernel_plasticity counted no image"
    values = torch.stack(list(known.values()))[:, ordered(table, column)].numpy()
    labels = [f"to step {step:,}" for step in known]
    norm = Normalize(0.0, values.max())
    figure = _map(values, norm, "share of the images", labels, table, column)
    figure.suptitle(f"{layer}: images in which a kernel was among the strongest", fontsize=10)
    return figure


def _map(
    values: np.ndarray,
    norm: Normalize,
    label: str,
    rows: Sequence[str],
    table: KernelTable,
    column: str,
) -> Figure:
    """A heat map, kernels across; protected ones are marked below."""
    figure = Figure(figsize=(8.0, 2.4 + 0.25 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(values, norm=norm, cmap="viridis", aspect="auto", interpolation="nearest")
    every = max(1, len(rows) // 24)
    axes.set_yticks(range(len(rows))[::every], rows[::every], fontsize=8)
    order = ordered(table, column)
    few = slice(None, None, max(1, -(-len(order) // 32)))
    axes.set_xticks(range(len(order))[few], [str(each) for each in order[few]], fontsize=7)
    bar = figure.colorbar(image, ax=axes, pad=0.02)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=8)
    protected, marks = table.columns.get("protected"), ""
    if protected is not None and bool(protected.any()):
        held = protected[order].nonzero().flatten().numpy()
        axes.plot(
            held, np.full(len(held), 1.02), "v", color=PROTECTED, markersize=4, clip_on=False,
            transform=axes.get_xaxis_transform(),
        )  # fmt: skip
        marks = "; marked in orange: protected now"
    axes.set_xlabel(f"{table.shape[0]} kernels{_by(column)}{marks}", fontsize=9)
    return figure


def _of(shown: int, count: int, what: str) -> str:
    return f"{count} {what}" if shown == count else f"{shown} of {count} {what}"


def _most(shown: int, count: int, what: str) -> str:
    chosen = "" if shown == count else ", those with most change"
    return f"{_of(shown, count, what)}{chosen}"


def _those(shown: int, count: int, what: str) -> str:
    chosen = "" if shown == count else ", those with the largest values"
    return f"{_of(shown, count, what)}{chosen}"


def _by(column: str) -> str:
    words = column.removesuffix("_per_step").replace("_", " ")
    return "" if column == "kernel" else f" by {words}"
