"""Kernels as tiles of a picture: what shape they have, and in which order they stand."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

#: of a picture; the others are left out
MOST_TILES = 64
#: a tile of more channels side by side cannot be read
MOST_CHANNELS = 16
#: around what is protected
PROTECTED = "#E69F00"
_COLUMNS, _ROWS, _WIDTH_INCHES = 8, 12, 11.0


def as_images(weights: Tensor, *, first: bool) -> Tensor | None:
    """(kernels, channels, height, width), or None where kernels are no images.

    Args:
        weights: (kernels, *fan_in). One dimension of places: channels are the rows of an image;
            three: slices are channels. A fully connected layer has images where it is the first
            and sees a square, or three of them.
        first: whether the layer sees the input of the network.

    Example:
        >>> as_images(torch.zeros(4, 12), first=True).shape
        torch.Size([4, 3, 2, 2])
        >>> as_images(torch.zeros(4, 12), first=False) is None
        True
    """
    kernels, *shape = weights.shape
    images: Tensor | None = None
    if len(shape) == 1 and first:
        for channels in (1, 3):
            side = math.isqrt(shape[0] // channels)
            if channels * side * side == shape[0] and side > 1:
                images = weights.reshape(kernels, channels, side, side)
    elif len(shape) == 2:
        images = weights.unsqueeze(1) if shape[0] <= MOST_CHANNELS else None
    elif len(shape) >= 3:
        images = weights.reshape(kernels, -1, *shape[-2:])
    return None if images is None or images.shape[1] > MOST_CHANNELS else images


def as_matrix(weights: Tensor) -> Tensor:
    """(kernels, channels): the sum over the places of each channel.

    Example:
        >>> as_matrix(torch.ones(2, 3, 5, 5))
        tensor([[25., 25., 25.],
                [25., 25., 25.]])
    """
    return weights.flatten(2).sum(dim=2) if weights.dim() > 2 else weights


def tiles_that_fit(height: float, width: float) -> tuple[int, int]:
    """How many kernels of this size a picture has room for: across, and in all.

    Example:
        >>> tiles_that_fit(5, 5), tiles_that_fit(5, 17)
        ((8, 64), (3, 36))
    """
    columns = min(_COLUMNS, max(1, int(_WIDTH_INCHES * height / width)))
    return columns, min(MOST_TILES, columns * _ROWS)


def grid(
    kernels: Sequence[int], height: float, width: float, protected: Tensor | None, title: str
) -> tuple[Figure, Iterator[tuple[int, Axes]]]:
    """A figure of one panel a kernel, numbered, with a frame around those that are protected."""
    columns = min(tiles_that_fit(height, width)[0], len(kernels))
    rows = -(-len(kernels) // columns)
    across = max(min(width / height, _WIDTH_INCHES / columns), 0.5)
    size = max(5.0, columns * (across + 0.15)), rows * (across * height / width + 0.25) + 0.7
    figure = Figure(figsize=size, layout="constrained")
    if protected is not None and bool(protected[list(kernels)].any()):
        title += "; orange: protected"
    figure.suptitle(title, fontsize=10)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in panels[len(kernels) :]:
        spare.set_visible(False)
    return figure, _numbered(kernels, panels, protected)


def _numbered(
    kernels: Sequence[int], panels: Sequence[Axes], protected: Tensor | None
) -> Iterator[tuple[int, Axes]]:
    for kernel, axes in zip(kernels, panels, strict=False):
        held = protected is not None and bool(protected[kernel])
        axes.set_title(str(kernel), fontsize=7, pad=2, color=PROTECTED if held else "black")
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_color(PROTECTED if held else "#BBBBBB")
            spine.set_linewidth(2.0 if held else 0.6)
        yield kernel, axes


def largest(values: Tensor) -> float:
    """The largest absolute value, never 0."""
    return float(values.abs().max()) or 1.0


def strongest(values: Tensor, count: int) -> list[int]:
    """Numbers of the rows with the largest mean |value|, in order of number."""
    strength = values.abs().flatten(1).mean(dim=1)
    chosen = strength.topk(min(count, len(strength))).indices
    return sorted(int(each) for each in chosen)


def beside(channels: int, size: int) -> float:
    """Width of so many channels of this size, with a place between two of them."""
    return channels * size + (channels - 1)


def panels_of(image: Tensor) -> Tensor:
    """(channels, height, width) -> (height, width of all), NaN between two of them.

    Example:
        >>> panels_of(torch.ones(2, 1, 2))
        tensor([[1., 1., nan, 1., 1.]])
    """
    gap = torch.full((image.shape[1], 1), torch.nan)
    parts = [part for channel in image for part in (channel, gap)]
    return torch.cat(parts[:-1], dim=1)
