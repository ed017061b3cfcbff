"""Strided levels down and up between fields of any size, in two or three dimensions.

A level down halves every axis, rounding up: a 3-wide convolution with stride 2, then one with
stride 1. A level up enlarges to the very size that its mirror image had (nearest neighbour) and
convolves: any size comes back exactly, odd ones too, and there are no checkerboards as with
transposed convolutions (Odena et al., "Deconvolution and checkerboard artifacts", 2016).
With periodic padding opposite borders are neighbours, as in simulations in a periodic box.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from insitu.models.activations import ACTIVATIONS, Activation


def convolution(
    spatial_axes: int, inputs: int, outputs: int, *, stride: int = 1, periodic: bool = False
) -> nn.Module:
    """A 3-wide convolution in 2 or 3 dimensions that keeps the size (halves it at stride 2).

    Weights as He et al., "Delving deep into rectifiers" (2015): torch's default lets the signal
    shrink from layer to layer, and three levels then stand still for hundreds of steps, which a
    stream does not send again.
    """
    kind = nn.Conv2d if spatial_axes == 2 else nn.Conv3d
    padding: Literal["circular", "zeros"] = "circular" if periodic else "zeros"
    layer = kind(inputs, outputs, 3, stride=stride, padding=1, padding_mode=padding)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def halved_sizes(spatial: tuple[int, ...], levels: int) -> list[tuple[int, ...]]:
    """The size before each level and after the last.

    Example:
        >>> halved_sizes((7, 10), 2)
        [(7, 10), (4, 5), (2, 3)]
    """
    sizes = [spatial]
    for _ in range(levels):
        sizes.append(tuple(-(-extent // 2) for extent in sizes[-1]))
    return sizes


class LevelsDown(nn.Sequential):
    """(rows, channels, *spatial) -> (rows, channels[-1], *halved spatial)."""

    def __init__(
        self,
        spatial_axes: int,
        inputs: int,
        channels: Sequence[int],
        activation: Activation,
        periodic: bool,
    ) -> None:
        layers: list[nn.Module] = []
        for before, after in pairwise((inputs, *channels)):
            layers += [
                convolution(spatial_axes, before, after, stride=2, periodic=periodic),
                ACTIVATIONS[activation](),
                convolution(spatial_axes, after, after, periodic=periodic),
                ACTIVATIONS[activation](),
            ]
        super().__init__(*layers)


class LevelUp(nn.Module):
    """(rows, before, *small) -> (rows, after, *size); no activation behind the last level."""

    def __init__(
        self,
        size: tuple[int, ...],
        before: int,
        after: int,
        activation: Activation,
        periodic: bool,
        last: bool,
    ) -> None:
        super().__init__()
        self.size = size
        between = after if not last else before
        self.layers = nn.Sequential(
            convolution(len(size), before, between, periodic=periodic),
            ACTIVATIONS[activation](),
            convolution(len(size), between, after, periodic=periodic),
            *(() if last else (ACTIVATIONS[activation](),)),
        )

    def forward(self, maps: Tensor) -> Tensor:
        larger = functional.interpolate(maps, size=self.size, mode="nearest")
        outputs: Tensor = self.layers(larger)
        return outputs


def levels_up(
    sizes: Sequence[tuple[int, ...]],
    channels: Sequence[int],
    activation: Activation,
    periodic: bool,
) -> nn.Sequential:
    """Levels through `channels`, the i-th one enlarging to `sizes[i]`."""
    steps = list(zip(sizes, pairwise(channels), strict=True))
    return nn.Sequential(
        *(
            LevelUp(size, before, after, activation, periodic, last=index == len(steps) - 1)
            for index, (size, (before, after)) in enumerate(steps)
        )
    )
