"""Batches of any size in one size, by rows that count for nothing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from insitu.layers.hebbian import HebbianLayer
from insitu.layers.standardisation import BatchStandardisation
from insitu.layers.update import set_mask


class PaddedRows:
    """Shows a function batches whose number of rows is a multiple of one number.

    Rows of zeros are put behind the real ones, masked in all Hebbian layers and standardisations,
    and cut off again. So shapes hardly ever change, which is what compiled and captured graphs
    want, and what is learned is the same. Rows that were masked before stay so.

    Deviations: sums over a larger batch are taken in another order, so weights and statistics
    agree to rounding; counts agree exactly.

    Args:
        module: all parts in it are told of the mask.
        multiple: of rows.

    Example:
        >>> from insitu.layers.learning_rates import AdaptiveRates
        >>> from insitu.layers.linear import HebbianLinear
        >>> from insitu.layers.rules.hard import Hard
        >>> layer = HebbianLinear(3, 4, Hard(), AdaptiveRates(0.05))
        >>> PaddedRows(layer, 8)(layer, torch.rand(5, 3)).shape
        torch.Size([5, 4])
    """

    def __init__(self, module: nn.Module, multiple: int) -> None:
        self._layers = [part for part in module.modules() if isinstance(part, HebbianLayer)]
        standardisations = [p for p in module.modules() if isinstance(p, BatchStandardisation)]
        self._parts: list[HebbianLayer | BatchStandardisation] = [
            *self._layers,
            *standardisations,
        ]
        self._multiple = multiple

    def __call__(self, function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        """function(rows), given a padded batch."""
        count = rows.shape[0]
        size = self._multiple  # a number that a compiler can see
        if count > size:
            size *= -(-count // size)
        behind = [0, 0] * (rows.dim() - 1) + [0, size - count]
        given = self._parts[0].mask if self._parts else None
        if given is None:
            given = torch.ones(count, dtype=torch.bool, device=rows.device)
        real = functional.pad(given, (0, size - count))
        for layer in self._layers:
            if layer.labels is not None and layer.labels.shape == (count,):
                layer.labels = functional.pad(layer.labels, (0, size - count), value=-1)
        before = [part.mask for part in self._parts]
        set_mask(self._parts, real)
        try:
            return function(functional.pad(rows, behind))[:count]
        finally:
            for part, mask in zip(self._parts, before, strict=True):
                part.mask = mask
