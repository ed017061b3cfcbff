"""Hard winner-take-all: only the kernel that fits a patch best learns it.

Rumelhart and Zipser, "Feature discovery by competitive learning" (1985), with Oja's decay in place
of a fixed sum of weights, as the comparison of Journé et al. (ICLR 2023) has it: y is 1 for the
kernel with the largest u, else 0.

Deviations: of kernels with equal u the first wins.
"""

from __future__ import annotations

from torch import Tensor

from insitu.layers.rules.base import Rule
from insitu.layers.rules.competition import one_hot


class Hard(Rule):
    """y = 1 for the winner, 0 for the losers.

    Example:
        >>> import torch
        >>> Hard().activities(torch.tensor([[0.0, 2.0, 1.0]]), None)
        tensor([[0., 1., 0.]])
    """

    def activities(self, potentials: Tensor, labels: Tensor | None) -> Tensor:
        return one_hot(potentials)


COMPONENT = Hard
