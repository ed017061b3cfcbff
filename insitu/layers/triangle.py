"""The Triangle activation: what responds above the average of all kernels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from insitu.errors import OperatorError


class Triangle(nn.Module):
    """relu(u - mean of u over the channels)^power.

    Coates, Ng and Lee, "An analysis of single-layer networks in unsupervised feature learning"
    (2011), with similarities in place of distances; the power is that of Journé et al. (ICLR 2023).

    Args:
        power: above 0; below 1 it lifts weak responses, above 1 it sharpens.

    Example:
        >>> Triangle(2.0)(torch.tensor([[0.0, 3.0]]))
        tensor([[0.0000, 2.2500]])
    """

    def __init__(self, power: float = 1.0) -> None:
        super().__init__()
        if not power > 0.0:
            raise OperatorError(f"the power of a Triangle is {power}", allowed="above 0")
        self.power = power

    def forward(self, potentials: Tensor) -> Tensor:
        """(rows, channels, *places), the same shape."""
        risen = torch.relu_(potentials - potentials.mean(dim=1, keepdim=True))
        if self.power == 1.0:
            return risen
        return risen.pow(self.power) if risen.requires_grad else risen.pow_(self.power)

    def extra_repr(self) -> str:
        return f"power={self.power:g}"
