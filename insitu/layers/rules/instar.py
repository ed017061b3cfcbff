"""Instar: a kernel is drawn to the patches that it wins, norm and all.

Grossberg, "Adaptive pattern classification and universal recoding I" (1976): the weights
follow dw = y (patch - w), so kernels become means of their patches; with the hard winner this is
online k-means with <w, patch> as similarity.

Deviations: y = softmax(t u), which for a large t is the winner alone. Learning rates that depend on
the norm's distance from 1 have no meaning here, as norms become those of the patches: use constant
or decaying ones.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from insitu.layers.rules.base import InverseTemperature, Rule
from insitu.layers.rules.competition import soft_shares


class Instar(Rule):
    """y = softmax(t u), and the decay is the sum of y.

    Example:
        >>> import torch
        >>> Instar(inverse_temperature=1.0).activities(torch.zeros(1, 2), None)
        tensor([[0.5000, 0.5000]])
    """

    decay: ClassVar[Literal["potential", "magnitude", "activity"]] = "activity"

    def __init__(self, *, inverse_temperature: InverseTemperature = 1.0) -> None:
        self.inverse_temperature = inverse_temperature

    def activities(self, potentials: Tensor, labels: Tensor | None) -> Tensor:
        return soft_shares(potentials, self.inverse_temperature)


COMPONENT = Instar
