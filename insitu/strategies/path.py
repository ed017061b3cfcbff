"""What each weight did for the loss on its way: the path integral behind SI and RWalk.

Over an update that moves the weights from w to w', with the gradient g of the loss at w,

    path <- path + g (w - w')      elementwise: to first order, by how much it lowered the loss

g is the gradient as it came from the backward pass: before the pull of the strategy itself, before
clipping, and before whatever strategies do to it that come later in the configuration. Those that
come earlier, and penalties that are added to the loss, are part of it; so put path integrals first.
w' is where the update ended, pulls included.

A path belongs to the weights and not to a sample. Where tasks run side by side, the end of one
takes the whole path since the last end; each task that had fresh rows since it last ended counts.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from insitu.criterion import Criterion
from insitu.strategies.anchored import Anchored
from insitu.strategies.base import Observation


class PathIntegral(Anchored):
    """Base: adds up g (w - w'), and says when a task ended that had samples.

    The anchor is there from the first update on: where the weights were when the path began.

    Args:
        criterion, optimizer, strength, apply: see `Anchored`.
    """

    def __init__(
        self,
        criterion: Criterion,
        optimizer: torch.optim.Optimizer,
        *,
        strength: float,
        apply: Literal["gradient", "proximal"],
    ) -> None:
        super().__init__(criterion, optimizer, strength=strength, apply=apply)
        #: one tensor a parameter, empty before the first update
        self._path: list[Tensor] = []
        self._before = [torch.empty_like(w, requires_grad=False) for w in criterion.parameters]
        #: what becomes `.grad`, so that the gradient of the loss stays as it came
        self._pulled = [torch.empty_like(w, requires_grad=False) for w in criterion.parameters]
        #: the gradients of an update that is not finished
        self._held: Sequence[Tensor] = ()
        self._tasks: set[int] = set()

    @torch.no_grad()
    def adjust_gradients(self) -> None:
        self._held = self._gradients()
        torch._foreach_copy_(self._before, list(self._weights))
        if not self._importance or self._proximal:
            torch._foreach_copy_(self._pulled, self._held)
        else:
            moved = self._differences(self._weights, self._anchor)
            for gradient, importance, way, pulled in zip(
                self._held, self._importance, moved, self._pulled, strict=True
            ):
                torch.addcmul(gradient, importance, way, value=self._strength, out=pulled)
        for parameter, pulled in zip(self._weights, self._pulled, strict=True):
            parameter.grad = pulled

    def _begin(self) -> None:
        """Before the first finished update: the path starts at the weights before it."""
        self._anchor = [weight.clone() for weight in self._before]
        self._path = [torch.zeros_like(weight) for weight in self._before]

    @torch.no_grad()
    def observe(self, observation: Observation) -> None:
        self._tasks.update(observation.batch.fresh_tasks())
        if not self._held:
            return
        if not self._path:
            self._begin()
        moved_back = self._differences(self._before, self._weights)
        for path, gradient, way in zip(self._path, self._held, moved_back, strict=True):
            path.addcmul_(gradient, way)
        self._went(self._held)
        self._held = ()

    def _went(self, gradients: Sequence[Tensor]) -> None:
        """One more update is on the path, made with these gradients."""

    @torch.no_grad()
    def end_task(self, task: int) -> None:
        """Consolidate; a task without samples since it last ended changes nothing."""
        if task not in self._tasks or not self._path:
            return
        self._tasks.discard(task)
        self.consolidate(self._importance_now(), [w.detach().clone() for w in self._weights])
        torch._foreach_zero_(self._path)

    @abstractmethod
    def _importance_now(self) -> list[Tensor]:
        """The importance that the path since the anchor leaves behind, one tensor a parameter."""

    def state_dict(self) -> dict[str, Any]:
        path = self._named(self._path)
        return {**super().state_dict(), "path": path, "tasks": sorted(self._tasks)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._path = self._taken_over("path", state["path"])
        self._tasks = {int(task) for task in state["tasks"]}
        self._held = ()
