"""Krotov and Hopfield: the winner learns a patch, the kernel of rank k unlearns it.

Krotov and Hopfield, "Unsupervised learning by competing hidden units" (PNAS 2019):
y = 1 for the kernel with the largest u, -delta for the one with the k-th largest, else 0.

Deviations: Lebesgue norm p = 2 and radius R = 1 only, so u = <w, patch>. They train a layer of
units without places; here every place of a convolution is a patch of its own.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from insitu.errors import OperatorError
from insitu.layers.rules.base import Rule


class KrotovHopfield(Rule):
    """y = 1 for the winner, -delta for rank k.

    Example:
        >>> rule = KrotovHopfield(rank=2, delta=0.4)
        >>> rule.activities(torch.tensor([[3.0, 1.0, 2.0]]), None)
        tensor([[ 1.0000,  0.0000, -0.4000]])
    """

    def __init__(
        self,
        *,
        rank: Annotated[
            int,
            Field(
                ge=2,
                description="k: which kernel unlearns a patch, by its response; 2 is the second",
                json_schema_extra={"unit": "kernels"},
            ),
        ] = 2,
        delta: Annotated[
            float,
            Field(
                ge=0.0,
                description="how strongly it unlearns, against the winner's 1",
                json_schema_extra={"unit": "ratio"},
            ),
        ] = 0.4,
    ) -> None:
        self.rank, self.delta = rank, delta

    def check_kernels(self, kernels: int) -> None:
        if self.rank > kernels:
            raise OperatorError(
                f"rule krotov_hopfield: rank is {self.rank}, in a layer of {kernels} kernels",
                allowed=f"2 to {kernels}" if kernels > 1 else "a layer of 2 kernels or more",
                consequence="the layer cannot learn",
            )

    def activities(self, potentials: Tensor, labels: Tensor | None) -> Tensor:
        ranked = potentials.topk(self.rank, dim=1).indices
        y = torch.zeros_like(potentials)
        y.scatter_(1, ranked[:, -1:], -self.delta)
        return y.scatter_(1, ranked[:, :1], 1.0)


COMPONENT = KrotovHopfield
