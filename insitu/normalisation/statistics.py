"""Mean and variance of a stream, merged batch by batch.

Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
variances" (1979), eq. 2.1: for parts a and b with counts n,

    mean = mean_a + (mean_b - mean_a) n_b / n
    M2   = M2_a + M2_b + (mean_b - mean_a)^2 n_a n_b / n

in float64, whatever the split into batches. Inside a batch the sums are taken around the mean of
each row, so that a large offset, such as a pressure of 101325 with ripples of 1, does not cancel,
and squares are summed in float64, so that a density of 1e20 does not overflow. Deviations from
the textbook: population variance, and a statistic that a non-finite value touched skips the
batch. Nothing here makes the device wait.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

#: over what a mean runs, besides the samples: `channel` over all axes but the first, `whole` over
#: all axes, `element` over none
Axes = Literal["channel", "whole", "element"]


def default_axes(shape: tuple[int, ...]) -> Axes:
    """Vectors and numbers by element, (height, width) as a whole, (channels, ...) by channel."""
    return "element" if len(shape) <= 1 else "whole" if len(shape) == 2 else "channel"


class RunningStatistics:
    """Count, mean and variance of one field over all samples so far.

    Args:
        shape: shape of the field without rows.
        axes: see `Axes`.

    Example:
        >>> statistics = RunningStatistics((2,), "element")
        >>> statistics.update(torch.tensor([[0.0, 5.0], [2.0, 5.0]]))
        >>> statistics.mean.tolist(), statistics.variance().tolist()
        ([1.0, 5.0], [1.0, 0.0])
    """

    def __init__(self, shape: tuple[int, ...], axes: Axes) -> None:
        groups = {"channel": shape[:1], "whole": (), "element": shape}[axes]
        #: (rows, *grouped) is how a batch is folded; the last axis is averaged over
        self._folded = (*groups, -1)
        #: shape that broadcasts against (rows, *shape)
        self.broadcast = groups + (1,) * (len(shape) - len(groups))
        self.count = torch.zeros(groups, dtype=torch.float64)
        self.mean = torch.zeros(groups, dtype=torch.float64)
        self.m2 = torch.zeros(groups, dtype=torch.float64)

    def update(self, values: Tensor) -> None:
        """Count the rows of a floating tensor (rows, *shape)."""
        rows = values.shape[0]
        if rows == 0:
            return
        folded = values.reshape(rows, *self._folded)
        row_mean = folded.mean(dim=-1, keepdim=True)
        row_norm = torch.linalg.vector_norm(folded - row_mean, dim=-1, dtype=torch.float64)
        row_mean = row_mean.squeeze(-1).to(torch.float64)
        mean = row_mean.mean(dim=0)
        m2 = row_norm.square().sum(dim=0) + folded.shape[-1] * (row_mean - mean).square().sum(dim=0)
        self._merge(float(rows * folded.shape[-1]), mean, m2)

    def _merge(self, added: float, mean: Tensor, m2: Tensor) -> None:
        finite = torch.isfinite(m2)
        count = self.count + added
        difference = mean - self.mean
        merged_mean = self.mean + difference * (added / count)
        merged_m2 = self.m2 + m2 + difference.square() * self.count * (added / count)
        self.count = torch.where(finite, count, self.count)
        self.mean = torch.where(finite, merged_mean, self.mean)
        self.m2 = torch.where(finite, merged_m2, self.m2)

    def reset(self) -> None:
        """Forget all samples."""
        self.count, self.mean, self.m2 = (
            torch.zeros_like(tensor) for tensor in (self.count, self.mean, self.m2)
        )

    def variance(self) -> Tensor:
        """Population variance, float64; 0 before the first sample."""
        return self.m2 / self.count.clamp_min(1.0)

    def to(self, device: torch.device | str) -> None:
        self.count, self.mean, self.m2 = (
            tensor.to(device) for tensor in (self.count, self.mean, self.m2)
        )

    def state_dict(self) -> dict[str, Tensor]:
        return {"count": self.count, "mean": self.mean, "m2": self.m2}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        device = self.count.device
        self.count, self.mean, self.m2 = (
            state[key].to(device, torch.float64, copy=True) for key in ("count", "mean", "m2")
        )
