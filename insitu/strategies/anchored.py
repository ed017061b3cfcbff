"""Springs: every weight is pulled to an anchor, the harder the more important it was.

What EWC, online EWC, SI, MAS and RWalk share. With importance F >= 0 and anchor a,

    penalty = strength / 2 * sum_i F_i (w_i - a_i)^2

applied in one of two ways, with the optimizer's learning rate lr of each parameter group:

    gradient:  g <- g + strength F (w - a)                        before the optimizer's step
    proximal:  w <- (w + lr strength F a) / (1 + lr strength F)   after it

`proximal` is the exact minimiser of penalty + |w' - w|^2 / (2 lr) (Parikh and Boyd, "Proximal
algorithms", 2014, section 4.2). It never overshoots, at any strength; `gradient` diverges where
lr strength F > 2. To first order in lr both make the same step of plain SGD. Where a penalty is
written lambda sum_i F_i (w_i - a_i)^2, without the half, strength is 2 lambda and the step is
w <- (w + 2 lr lambda F a) / (1 + 2 lr lambda F).

Notable: under `gradient` the pull is part of what is clipped, and of what momentum and Adam see;
under `proximal` it is neither, so it is not scaled by Adam, and parameters without an optimizer
stay where they are. In both ways the reported penalty is that of the weights before the update.
The root of strength F is kept beside F: then one buffer r = sqrt(strength F) (w - a) gives the
penalty, |r|^2 / 2, and the pull, sqrt(strength F) r.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from insitu.criterion import Criterion
from insitu.errors import OperatorError
from insitu.strategies.base import Strategy, check_state_keys

Apply = Annotated[
    Literal["gradient", "proximal"],
    Field(
        description="gradient adds the pull to the gradient; proximal moves the weights after the "
        "update in closed form, which is stable at any strength"
    ),
]
Strength = Annotated[
    float,
    Field(
        ge=0.0,
        allow_inf_nan=False,
        description="weight of the penalty; the larger, the less is forgotten and learned",
        json_schema_extra={"unit": "ratio"},
    ),
]
Decay = Annotated[
    float,
    Field(
        ge=0.0,
        le=1.0,
        description="share of the old importance that is kept when new is added; 1 forgets nothing",
        json_schema_extra={"unit": "ratio"},
    ),
]


class Anchored(Strategy):
    """Base: pulls weights to an anchor, and keeps importance and anchor.

    Args:
        criterion: its trainable parameters are anchored.
        optimizer: over them; for its learning rates.
        strength: 0 or more.
        apply: `gradient` or `proximal`.
    """

    figures: ClassVar[Mapping[str, str]] = {
        "consolidations": "times: how often importance was taken",
        "importance_mean": "1: mean importance of a weight",
        "distance": "1: L2 distance of the weights from their anchors",
    }

    def __init__(
        self,
        criterion: Criterion,
        optimizer: torch.optim.Optimizer,
        *,
        strength: float,
        apply: Literal["gradient", "proximal"],
    ) -> None:
        self._criterion = criterion
        self._optimizer = optimizer
        self._strength = strength
        self._proximal = apply == "proximal"
        self._weights: Sequence[Tensor] = criterion.parameters
        #: F and a, one tensor a parameter; F is empty before the first consolidation
        self._importance: list[Tensor] = []
        self._anchor: list[Tensor] = []
        #: sqrt(strength F), the buffer r, and lr strength F / (1 + lr strength F) at these rates
        self._root: list[Tensor] = []
        self._pulled: list[Tensor] = []
        self._share: list[Tensor] = []
        self._share_rates: list[float] = []
        self.consolidations = 0

    @property
    def importance(self) -> dict[str, Tensor]:
        """F by the name of the parameter; empty before the first consolidation."""
        return self._named(self._importance)

    @property
    def anchor(self) -> dict[str, Tensor]:
        """a by the name of the parameter; may be empty before the first consolidation."""
        return self._named(self._anchor)

    def _named(self, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        """One tensor a parameter, or none, by name."""
        return dict(zip(self._criterion.names, tensors, strict=False))

    @torch.no_grad()
    def consolidate(self, importance: Sequence[Tensor], anchor: Sequence[Tensor]) -> None:
        """Take over F and a, one tensor a parameter; they are ours from now on."""
        # the anchor first: who reads `metrics` meanwhile takes an importance as a sign of one
        self._anchor = list(anchor)
        self._importance = list(importance)
        self.consolidations += 1
        self._prepare()

    def _prepare(self) -> None:
        """What follows from F."""
        self._share_rates = []
        if not self._importance:
            self._root = []
            return
        self._root = list(torch._foreach_mul(self._importance, self._strength))
        torch._foreach_sqrt_(self._root)
        if not self._pulled:
            self._pulled = [torch.empty_like(root) for root in self._root]

    @torch.no_grad()
    def adjust_gradients(self) -> Tensor | None:
        if not self._root:
            return None
        value = self._pull()
        if not self._proximal:
            torch._foreach_addcmul_(self._gradients(), self._root, self._pulled)
        return value

    def _pull(self) -> Tensor:
        """Fill r = sqrt(strength F) (w - a) and give the penalty, |r|^2 / 2."""
        for pulled, weight, anchor in zip(self._pulled, self._weights, self._anchor, strict=True):
            torch.sub(weight, anchor, out=pulled)
        torch._foreach_mul_(self._pulled, self._root)
        norms = torch.stack(torch._foreach_norm(self._pulled))
        return norms.square().sum().mul_(0.5).to(torch.float32)

    def _gradients(self) -> list[Tensor]:
        """The gradients of all parameters; zeros where this step has none."""
        found = []
        for parameter in self._criterion.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            found.append(parameter.grad)
        return found

    @torch.no_grad()
    def adjust_weights(self) -> None:
        if self._proximal and self._root:
            rates = self._rates()
            if rates != self._share_rates:
                self._set_shares(rates)
            torch._foreach_lerp_(list(self._weights), self._anchor, self._share)

    def _rates(self) -> list[float]:
        """The learning rate of every parameter now; 0 without an optimizer."""
        rates = {
            id(parameter): float(group["lr"])
            for group in self._optimizer.param_groups
            for parameter in group["params"]
        }
        return [rates.get(id(parameter), 0.0) for parameter in self._criterion.parameters]

    def _set_shares(self, rates: list[float]) -> None:
        """How far to go from the weight to its anchor: x / (1 + x), x = lr strength F."""
        if not self._share:
            self._share = [torch.empty_like(root) for root in self._root]
        torch._foreach_copy_(self._share, self._importance)
        torch._foreach_mul_(self._share, [rate * self._strength for rate in rates])
        for share, pulled in zip(self._share, self._pulled, strict=True):
            share.div_(torch.add(share, 1.0, out=pulled))
        self._share_rates = rates

    def metrics(self) -> Mapping[str, Tensor | float]:
        figures: dict[str, Tensor | float] = {"consolidations": float(self.consolidations)}
        if self._importance:
            weights = [weight.detach() for weight in self._weights]
            entries = sum(weight.numel() for weight in weights)
            total = torch.stack([weight.sum() for weight in self._importance]).sum()
            moved = torch._foreach_norm(torch._foreach_sub(weights, self._anchor))
            figures |= {"importance_mean": total / entries, "distance": torch.stack(moved).norm()}
        return figures

    def state_dict(self) -> dict[str, Any]:
        return {
            "consolidations": self.consolidations,
            "importance": self.importance,
            "anchor": self.anchor,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        check_state_keys(self.name, state, self.state_dict())
        anchor = self._taken_over("anchor", state["anchor"])
        importance = self._taken_over("importance", state["importance"])
        self._anchor, self._importance = anchor, importance
        self.consolidations = int(state["consolidations"])
        self._prepare()

    def _taken_over(self, part: str, found: Mapping[str, Tensor]) -> list[Tensor]:
        """Copies of saved tensors, one a parameter, or none; those of another model are refused."""
        own = dict(zip(self._criterion.names, self._weights, strict=True))
        shapes = {name: list(tensor.shape) for name, tensor in found.items()}
        expected = {name: list(tensor.shape) for name, tensor in own.items()}
        if found and shapes != expected:
            raise OperatorError(
                f"the state of {self.name}.{part} is for parameters {shapes}",
                allowed=f"{expected}",
                remedy="resume with the model that the checkpoint was written with",
            )
        return [found[name].to(weight, copy=True) for name, weight in own.items() if found]
