"""SoftHebb: the winner of a patch learns it, every other kernel unlearns it, by their softmax.

Journé, Garcia Rodriguez, Guo and Moraitis, "Hebbian deep learning without feedback" (ICLR 2023):
with s = softmax(t u), y = +s for the kernel with the largest u and -s for all others.

Deviations: none. Of kernels with equal u the first wins. With groups, all kernels of the layer
compete, not those of a group.
"""

from __future__ import annotations

from torch import Tensor

from insitu.layers.rules.base import InverseTemperature, Rule
from insitu.layers.rules.competition import signed_shares


class SoftHebb(Rule):
    """y = +softmax(t u) for the winner, -softmax(t u) for the losers.

    Example:
        >>> import torch
        >>> SoftHebb(inverse_temperature=1.0).activities(torch.tensor([[0.0, 0.0, 5.0]]), None)
        tensor([[-0.0066, -0.0066,  0.9867]])
    """

    def __init__(self, *, inverse_temperature: InverseTemperature = 1.0) -> None:
        self.inverse_temperature = inverse_temperature

    def activities(self, potentials: Tensor, labels: Tensor | None) -> Tensor:
        return signed_shares(potentials, self.inverse_temperature)


COMPONENT = SoftHebb
