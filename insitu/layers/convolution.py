"""Convolutional Hebbian layers in one, two and three dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from insitu.errors import OperatorError
from insitu.layers.hebbian import HebbianLayer
from insitu.layers.initial_weights import InitialWeights
from insitu.layers.learning_rates import LearningRates
from insitu.layers.padding import PaddingMode, pad
from insitu.layers.rules.base import Rule

_CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


class HebbianConvolution(HebbianLayer):
    """(rows, in_channels, *places) -> (rows, out_channels, *places), a direction beside it.

    See `HebbianLayer` for what it learns, what it keeps and what it ignores. All kernels of the
    layer compete, also where `groups` gives each only some of the channels to see.

    Args:
        kernel_size, stride, padding, dilation: a number, or one a dimension.
        padding_mode: what lies beyond the border, see `insitu.layers.padding`.
        groups: cuts the channels into groups, each seen by its share of the kernels.

    Raises:
        OperatorError: a size out of range; groups that do not divide the channels or the kernels;
            input of another shape, or smaller than the kernel, or than `padding_mode` needs.
    """

    #: how many dimensions the places have
    dimensions: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        rule: Rule,
        learning_rates: LearningRates,
        *,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        padding_mode: PaddingMode = "reflect",
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        initial_weights: InitialWeights = "normal",
        radius: float | None = None,
        activations: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        _check_channels(in_channels, out_channels, groups)
        sizes = self._each("kernel_size", kernel_size, 1)
        super().__init__(
            (out_channels, in_channels // groups, *sizes),
            rule,
            learning_rates,
            initial_weights=initial_weights,
            radius=radius,
            activations=activations,
            generator=generator,
        )
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = sizes
        self.stride = self._each("stride", stride, 1)
        self.padding = self._each("padding", padding, 0)
        self.dilation = self._each("dilation", dilation, 1)
        self.padding_mode: PaddingMode = padding_mode
        # zeros cost no copy: the convolution knows them
        self._inner = self.padding if padding_mode == "zeros" else [0] * self.dimensions

    def _each(self, name: str, value: int | Sequence[int], least: int) -> list[int]:
        values = [value] * self.dimensions if isinstance(value, int) else list(value)
        if len(values) != self.dimensions or min(values) < least:
            raise OperatorError(
                f"{name} of a Hebbian layer in {self.dimensions}-D is {value}",
                allowed=f"a whole number from {least}, or {self.dimensions} of them",
            )
        return values

    def _prepared(self, rows: Tensor) -> Tensor:
        if rows.dim() != self.dimensions + 2 or rows.shape[1] != self.in_channels:
            raise OperatorError(
                f"a Hebbian layer of {self.in_channels} channels in {self.dimensions}-D was given "
                f"{list(rows.shape)}",
                allowed=f"(rows, {self.in_channels}, *{self.dimensions} sizes)",
            )
        for size, spread, amount, extent in zip(
            self.kernel_size, self.dilation, self.padding, rows.shape[2:], strict=True
        ):
            reach = spread * (size - 1) + 1
            if reach > extent + 2 * amount:
                raise OperatorError(
                    f"a Hebbian kernel of {reach} places (dilation included) on an input of "
                    f"{extent} padded by {amount}",
                    allowed=f"inputs of {max(1, reach - 2 * amount)} places or more",
                    remedy="choose a smaller kernel or dilation, pad more, or pool less before",
                )
        return rows if self.padding_mode == "zeros" else pad(rows, self.padding, self.padding_mode)

    def _potentials(self, prepared: Tensor) -> Tensor:
        return _CONVOLUTIONS[self.dimensions](
            prepared,
            self.weight.to(prepared.dtype),
            stride=self.stride,
            padding=self._inner,
            dilation=self.dilation,
            groups=self.groups,
        )

    def _find_direction(self, activities: Tensor, prepared: Tensor, potentials: Tensor) -> None:
        correlation = self._correlate(activities, prepared)
        if self.rule.decay == "potential" and self.weight.numel() < potentials.numel():
            # sum of y u = <w, G>, and the weights are the smaller
            fan_in = tuple(range(1, self.weight.dim()))
            decay = (correlation * self.weight).sum(dim=fan_in, keepdim=True)
        else:
            decay = self._decay(activities, potentials)
        if torch.compiler.is_compiling():  # which writes to no `out` of channels last
            self.direction.copy_(torch.addcmul(correlation, self.weight, decay, value=-1.0))
        else:
            torch.addcmul(correlation, self.weight, decay, value=-1.0, out=self.direction)

    def _correlate(self, activities: Tensor, prepared: Tensor) -> Tensor:
        """G, the weight gradient of the convolution and nothing else."""
        only_weights = [False, True, False]
        correlation: Tensor = torch.ops.aten.convolution_backward(
            activities,
            prepared,
            self.weight.to(prepared.dtype),
            None,
            self.stride,
            self._inner,
            self.dilation,
            False,
            [0] * self.dimensions,
            self.groups,
            only_weights,
        )[1]
        return correlation.to(self.weight.dtype)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding} {self.padding_mode}, "
            f"dilation={self.dilation}, groups={self.groups}, rule={type(self.rule).__name__}"
        )


class HebbianConv1d(HebbianConvolution):
    """Hebbian convolution of sequences and 1-D fields, see `HebbianConvolution`."""

    dimensions = 1


class HebbianConv2d(HebbianConvolution):
    """Hebbian convolution of images and 2-D fields, see `HebbianConvolution`.

    Example:
        >>> from insitu.layers.learning_rates import AdaptiveRates
        >>> from insitu.layers.rules.softhebb import SoftHebb
        >>> layer = HebbianConv2d(3, 8, 5, SoftHebb(), AdaptiveRates(0.08), padding=2)
        >>> layer(torch.rand(2, 3, 16, 16)).shape
        torch.Size([2, 8, 16, 16])
    """

    dimensions = 2


class HebbianConv3d(HebbianConvolution):
    """Hebbian convolution of volumes and 3-D fields, see `HebbianConvolution`."""

    dimensions = 3


def _check_channels(in_channels: int, out_channels: int, groups: int) -> None:
    if min(in_channels, out_channels, groups) < 1:
        raise OperatorError(
            f"a Hebbian layer from {in_channels} to {out_channels} channels in {groups} groups",
            allowed="1 or more of each",
        )
    if in_channels % groups or out_channels % groups:
        raise OperatorError(
            f"{groups} groups do not divide {in_channels} channels and {out_channels} kernels",
            allowed="a common divisor of both",
        )
