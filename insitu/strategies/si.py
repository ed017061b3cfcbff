"""Synaptic intelligence: hold weights by how much of the loss they took away on their way.

Zenke, Poole and Ganguli, "Continual learning through synaptic intelligence" (2017), eq. 3-5. With
the gradient g of the loss and the weights w before and w' after an update,

    path <- path + g (w - w')                                               observe
    at the end of a task:   F <- F + max(path, 0) / ((w - a)^2 + damping),
                            a <- w,   path <- 0                             end_task
    penalty = strength / 2 * sum_i F_i (w_i - a_i)^2         adjust_gradients, or adjust_weights

g is the gradient without the pull, see `insitu.strategies.path`; how the pull is applied is said in
`insitu.strategies.anchored`.

Deviations: the pull is a proximal step by default; `apply: gradient` is the paper's, and diverges
where learning rate times strength is large. The paper's penalty has no half, so strength is 2 c
there. A path that raised the loss counts as zero, as in the authors' code; the paper does not say.
Where tasks run side by side, the end of one takes the whole path since the last end.

Costs: seven operations over all weights a step, a third as much again as a step of a small dense
network (784-400-400-10, 64 rows, two threads); next to nothing at the end of a task. It is memory
that is waited for: sixteen reads and writes of as many bytes as the weights have.

Keeps: six times the weights (importance, anchor, path, shares of the pull, two buffers) and no
samples. Constant over tasks.

Use it when: no sample may be kept at all, not even until the end of its task, or the end of a task
may not cost anything. It counts the whole path, so it does well where each task is trained long.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from insitu.criterion import Criterion
from insitu.strategies.anchored import Apply, Strength
from insitu.strategies.path import PathIntegral


class SynapticIntelligence(PathIntegral):
    """Pulls weights back by what they did for the loss of former tasks.

    Args:
        criterion: its trainable parameters are anchored.
        optimizer: for its learning rates.
    """

    name = "si"

    def __init__(
        self,
        criterion: Criterion,
        optimizer: torch.optim.Optimizer,
        *,
        strength: Strength = 2.0,
        apply: Apply = "proximal",
        damping: Annotated[
            float,
            Field(
                gt=0.0,
                allow_inf_nan=False,
                description="added to the squared way of a weight (xi in the paper, 0.001 and 0.1 "
                "there), so that weights that hardly moved do not count for too much",
                json_schema_extra={"unit": "squared weight"},
            ),
        ] = 0.01,
    ) -> None:
        super().__init__(criterion, optimizer, strength=strength, apply=apply)
        self._damping = damping

    def _importance_now(self) -> list[Tensor]:
        ways = torch._foreach_sub(list(self._weights), self._anchor)
        torch._foreach_mul_(ways, ways)
        torch._foreach_add_(ways, self._damping)
        found = torch._foreach_clamp_min(self._path, 0.0)
        torch._foreach_div_(found, ways)
        if self._importance:
            torch._foreach_add_(found, self._importance)
        return list(found)


COMPONENT = SynapticIntelligence
