"""Rows that count and rows that do not: moments of some rows, without a look at the device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from insitu.errors import OperatorError


class Moments(NamedTuple):
    """Of (channels,) each; `values` is 0-dim, how many values a channel had."""

    mean: Tensor
    variance: Tensor
    values: Tensor

    @property
    def known(self) -> Tensor:
        """(channels,) bool: finite, and of two values or more."""
        return self.mean.isfinite() & self.variance.isfinite() & (self.values > 1.0)

    @property
    def unbiased(self) -> Tensor:
        """The variance with one degree of freedom less."""
        return self.variance * (self.values / (self.values - 1.0).clamp_min(1.0))


def moments_of(rows: Tensor, counted: Tensor) -> Moments:
    """Moments over the rows that are `counted`; the others may hold anything.

    Args:
        rows: (rows, channels, *places).
        counted: (rows,) bool.

    Raises:
        OperatorError: `counted` is no bool a row.

    Example:
        >>> rows = torch.tensor([[1.0], [3.0], [torch.nan]])
        >>> moments_of(rows, torch.tensor([True, True, False]))
        Moments(mean=tensor([2.]), variance=tensor([1.]), values=tensor(2.))
    """
    over = (0, *range(2, rows.dim()))
    wide = torch.promote_types(rows.dtype, torch.float32)
    column = _by_row(counted, rows)
    values = counted.sum().to(wide) * rows[:1, :1].numel()
    divisor = values.clamp_min(1.0)
    mean = torch.where(column, rows, 0.0).sum(over, dtype=wide) / divisor
    apart = torch.where(column, rows - _by_channel(mean, rows), 0.0)
    return Moments(mean, apart.square_().sum(over) / divisor, values)


def standardised(rows: Tensor, mean: Tensor, variance: Tensor, eps: float) -> Tensor:
    """(rows - mean) / sqrt(variance + eps), where both are (channels,) or (rows, channels)."""
    scale = (variance + eps).rsqrt()
    return ((rows - _by_channel(mean, rows)) * _by_channel(scale, rows)).to(rows.dtype)


def only(rows: Tensor, real: Tensor) -> Tensor:
    """Zeros in place of the rows that are not real."""
    return torch.where(_by_row(real, rows), rows, 0.0)


def _by_row(real: Tensor, rows: Tensor) -> Tensor:
    """(rows,) as (rows, 1, ...), to be broadcast."""
    if real.shape != rows.shape[:1] or real.dtype != torch.bool:
        raise OperatorError(
            f"the mask of a batch of {rows.shape[0]} rows is {real.dtype} of {list(real.shape)}",
            allowed=f"bool of [{rows.shape[0]}]",
        )
    return real.view(-1, *(1,) * (rows.dim() - 1))


def _by_channel(values: Tensor, like: Tensor) -> Tensor:
    """(channels,) or (rows, channels) as (1 or rows, channels, 1, ...)."""
    return values.reshape(*values.shape, *(1,) * (like.dim() - 2))
