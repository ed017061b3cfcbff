"""Oja's rule: every kernel learns every patch by its own response; no competition.

Oja, "Simplified neuron model as a principal component analyzer" (1982): y = u, so
D = sum of u patch - (sum of u^2) w. All kernels seek the first principal component, each from its
own start.

Deviations: the layer divides the direction by its largest absolute value, as for every rule.
"""

from __future__ import annotations

from torch import Tensor

from insitu.layers.rules.base import Rule


class Oja(Rule):
    """y = u.

    Example:
        >>> import torch
        >>> Oja().activities(torch.tensor([[0.5, -2.0]]), None)
        tensor([[ 0.5000, -2.0000]])
    """

    def activities(self, potentials: Tensor, labels: Tensor | None) -> Tensor:
        return potentials.clone()


COMPONENT = Oja
