"""Standardise, Hebbian layer, Triangle, pool: what deep Hebbian networks are made of."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from insitu.errors import OperatorError
from insitu.layers.convolution import HebbianConvolution
from insitu.layers.linear import HebbianLinear
from insitu.layers.standardisation import BatchStandardisation
from insitu.layers.triangle import Triangle

Pooling = Literal["max", "average"]

_POOLS = {
    ("max", 1): nn.MaxPool1d,
    ("max", 2): nn.MaxPool2d,
    ("max", 3): nn.MaxPool3d,
    ("average", 1): nn.AvgPool1d,
    ("average", 2): nn.AvgPool2d,
    ("average", 3): nn.AvgPool3d,
}


class HebbianBlock(nn.Module):
    """pool(Triangle(layer(standardised rows))), in as many dimensions as the layer has.

    Journé et al., "Hebbian deep learning without feedback" (ICLR 2023).

    Args:
        layer: any Hebbian layer.
        power: of the Triangle; None leaves the responses as they are.
        pool: `pooling(...)` or None.
        standardise: whether the input is standardised by channel.

    Example:
        >>> import torch
        >>> from insitu.layers.convolution import HebbianConv2d
        >>> from insitu.layers.learning_rates import AdaptiveRates
        >>> from insitu.layers.rules.softhebb import SoftHebb
        >>> layer = HebbianConv2d(3, 8, 5, SoftHebb(), AdaptiveRates(0.08), padding=2)
        >>> block = HebbianBlock(layer, power=0.7, pool=pooling("max", 2, 4, stride=2, padding=1))
        >>> block(torch.rand(2, 3, 16, 16)).shape
        torch.Size([2, 8, 8, 8])
    """

    def __init__(
        self,
        layer: HebbianLinear | HebbianConvolution,
        *,
        power: float | None = 1.0,
        pool: nn.Module | None = None,
        standardise: bool = True,
    ) -> None:
        super().__init__()
        self.standardisation = BatchStandardisation(layer.in_channels) if standardise else None
        self.layer = layer
        self.activation = None if power is None else Triangle(power)
        self.pool = pool

    def forward(self, rows: Tensor) -> Tensor:
        """(rows, in_channels, *places) -> (rows, out_channels, *fewer places)."""
        features = rows
        for part in (self.standardisation, self.layer, self.activation, self.pool):
            if part is not None:
                features = part(features)
        return features


def pooling(
    kind: Pooling, dimensions: int, size: int, *, stride: int | None = None, padding: int = 0
) -> nn.Module:
    """A pool over places; without a stride its windows do not overlap.

    Raises:
        OperatorError: no such pool, or a padding of more than half of the window.
    """
    if (kind, dimensions) not in _POOLS:
        raise OperatorError(
            f"a pool of kind {kind!r} in {dimensions}-D",
            allowed="max or average, in 1, 2 or 3 dimensions",
        )
    stride = size if stride is None else stride
    if size < 1 or stride < 1 or not 0 <= padding <= size // 2:
        raise OperatorError(
            f"a pool of size {size}, stride {stride}, padding {padding}",
            allowed="size and stride from 1, padding from 0 to half of the size",
        )
    pool: nn.Module = _POOLS[kind, dimensions](size, stride=stride, padding=padding)
    return pool
