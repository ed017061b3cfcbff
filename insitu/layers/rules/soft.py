"""Soft winner-take-all: kernels share a patch by their softmax.

Moraitis et al., "SoftHebb: Bayesian inference in unsupervised Hebbian soft winner-take-all
networks" (2022): y = softmax(t u) over the kernels of a layer, the posterior of the cause given
the patch.

Deviations: none; the layer divides the direction by its largest absolute value, as the authors'
code does. With groups, all kernels of the layer compete, not those of a group.
"""

from __future__ import annotations

from torch import Tensor

from insitu.layers.rules.base import InverseTemperature, Rule
from insitu.layers.rules.competition import soft_shares


class Soft(Rule):
    """y = softmax(t u) over the kernels.

    Example:
        >>> import torch
        >>> Soft(inverse_temperature=1.0).activities(torch.zeros(1, 4), None)
        tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """

    def __init__(self, *, inverse_temperature: InverseTemperature = 1.0) -> None:
        self.inverse_temperature = inverse_temperature

    def activities(self, potentials: Tensor, labels: Tensor | None) -> Tensor:
        return soft_shares(potentials, self.inverse_temperature)


COMPONENT = Soft
