"""Riemannian walk: Fisher information and what each weight did for the loss, together.

Chaudhry et al., "Riemannian Walk for Incremental Learning: Understanding Forgetting and
Intransigence" (2018), section 4. With the gradient g of the loss over the batch and the weights w
before and w' after an update,

    path <- path + g (w - w'),   R <- fisher_decay R + (1 - fisher_decay) g^2     observe, eq. 6
    every `interval_steps` updates, with the way d of a weight over them:
        score <- score + path / (R d^2 / 2 + damping),   path <- 0                eq. 8
    at the end of task k:
        s <- max(score, 0) / its largest,   averaged with the s of task k - 1;  score <- 0
        F <- R / its largest + s,   a <- w                                        end_task, eq. 9
    penalty = strength / 2 * sum_i F_i (w_i - a_i)^2         adjust_gradients, or adjust_weights

R goes on over tasks, as in the paper. Its squares are those of the gradient of the mean over the
batch, as in the paper: quick, and smaller than the Fisher information by up to a batch's size;
the division by the largest takes a common factor out again. g is the gradient without the pull, see
`insitu.strategies.path`; how the pull is applied is said in `insitu.strategies.anchored`.

Deviations: the pull is a proximal step by default; `apply: gradient` is the paper's, and diverges
where learning rate times strength is large. The paper's penalty has no half, so strength is 2
lambda there. The average starts at the first square and not at zero. The former samples that the
paper also trains are left to a replay strategy. Where tasks run side by side, the end of one takes
the whole path since the last end.

Costs: nine operations over all weights a step, three quarters as much again as a step of a small
dense network (784-400-400-10, 64 rows, two threads); next to nothing at the end of a task.

Keeps: ten times the weights (importance, anchor, path, R, score, former score, start of the
interval, shares of the pull, two buffers) and no samples. Constant over tasks.

Use it when: EWC or SI alone forget too much and no sample may be kept. Importance lies in
[0, 2], so one strength fits more networks than theirs do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from insitu.criterion import Criterion
from insitu.strategies.anchored import Apply, Strength
from insitu.strategies.path import PathIntegral


class RiemannianWalk(PathIntegral):
    """Pulls weights back by their Fisher information and by what they did for the loss.

    Args:
        criterion: its trainable parameters are anchored.
        optimizer: for its learning rates.
    """

    name = "rwalk"

    def __init__(
        self,
        criterion: Criterion,
        optimizer: torch.optim.Optimizer,
        *,
        strength: Strength = 5.0,
        apply: Apply = "proximal",
        fisher_decay: Annotated[
            float,
            Field(
                ge=0.0,
                lt=1.0,
                description="share of the running Fisher information that is kept in every update",
                json_schema_extra={"unit": "ratio"},
            ),
        ] = 0.9,
        interval_steps: Annotated[
            int,
            Field(
                ge=1,
                description="updates over which a way is measured for the score",
                json_schema_extra={"unit": "updates"},
            ),
        ] = 10,
        damping: Annotated[
            float,
            Field(
                gt=0.0,
                allow_inf_nan=False,
                description="added to the distance in the score (epsilon in the paper), so that "
                "weights that hardly moved do not count for too much",
                json_schema_extra={"unit": "loss"},
            ),
        ] = 0.001,
    ) -> None:
        super().__init__(criterion, optimizer, strength=strength, apply=apply)
        self._fisher_decay = fisher_decay
        self._interval_steps = interval_steps
        self._damping = damping
        self._interval_updates = 0
        #: one tensor a parameter, empty before the first update (the former score: the first end)
        self._running: list[Tensor] = []
        self._score: list[Tensor] = []
        self._start: list[Tensor] = []
        self._former_score: list[Tensor] = []

    def _went(self, gradients: Sequence[Tensor]) -> None:
        if not self._running:
            self._running = list(torch._foreach_mul(list(gradients), list(gradients)))
        else:
            torch._foreach_mul_(self._running, self._fisher_decay)
            rest = 1.0 - self._fisher_decay
            torch._foreach_addcmul_(self._running, list(gradients), list(gradients), value=rest)
        self._interval_updates += 1
        if self._interval_updates >= self._interval_steps:
            self._close_interval()

    def _begin(self) -> None:
        super()._begin()
        self._score = [torch.zeros_like(path) for path in self._path]
        self._start = [weight.clone() for weight in self._before]

    def _close_interval(self) -> None:
        """Turn the path of the interval into score."""
        distance = torch._foreach_sub(list(self._weights), self._start)
        torch._foreach_mul_(distance, distance)
        torch._foreach_mul_(distance, self._running)
        torch._foreach_mul_(distance, 0.5)
        torch._foreach_add_(distance, self._damping)
        torch._foreach_addcdiv_(self._score, self._path, list(distance))
        torch._foreach_zero_(self._path)
        torch._foreach_copy_(self._start, list(self._weights))
        self._interval_updates = 0

    def _importance_now(self) -> list[Tensor]:
        if self._interval_updates:
            self._close_interval()
        score = _of_largest(torch._foreach_clamp_min(self._score, 0.0))
        if self._former_score:
            torch._foreach_add_(score, self._former_score)
            torch._foreach_mul_(score, 0.5)
        self._former_score = score
        torch._foreach_zero_(self._score)
        return list(torch._foreach_add(_of_largest(self._running), score))

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "interval_updates": self._interval_updates,
            **{part: self._named(tensors) for part, tensors in self._parts().items()},
        }

    def _parts(self) -> dict[str, list[Tensor]]:
        return {
            "running": self._running,
            "score": self._score,
            "start": self._start,
            "former_score": self._former_score,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._interval_updates = int(state["interval_updates"])
        self._running, self._score, self._start, self._former_score = (
            self._taken_over(part, state[part]) for part in self._parts()
        )


def _of_largest(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Each divided by the largest entry of all, which stays on the device; zeros stay zeros."""
    largest = torch.stack([tensor.max() for tensor in tensors]).max()
    largest = largest.clamp_min(torch.finfo(largest.dtype).tiny)
    return list(torch._foreach_div(list(tensors), largest))


COMPONENT = RiemannianWalk
