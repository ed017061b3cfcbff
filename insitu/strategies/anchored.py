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
stay where they are. The value of the penalty is a figure, taken of the present weights when
somebody asks: nothing in a step needs it, and it would cost as much as the pull.
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
from insitu.strategies.differences import Differences

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
        "penalty": "loss: the penalty at the present weights",
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
        self._differences = Differences(self._weights)
        #: lr strength F / (1 + lr strength F), and the rates it was made for
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
        self._share_rates = []
        self.consolidations += 1

    def adjust_gradients(self) -> None:
        if self._importance and not self._proximal:
            self._pull_gradients()

    @torch.no_grad()
    def _pull_gradients(self) -> None:
        moved = self._differences(self._weights, self._anchor)
        for gradient, importance, way in zip(
            self._gradients(), self._importance, moved, strict=True
        ):
            gradient.addcmul_(importance, way, value=self._strength)

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
        if self._proximal and self._importance:
            rates = self._rates()
            if rates != self._share_rates:
                self._set_shares(rates)
            torch._foreach_lerp_(list(self._weights), self._anchor, self._share)

    def _rates(self) -> list[float]:
        """The learning rate of every group now."""
        return [float(group["lr"]) for group in self._optimizer.param_groups]

    def _rates_of_parameters(self) -> list[float]:
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
            self._share = [torch.empty_like(importance) for importance in self._importance]
        torch._foreach_copy_(self._share, self._importance)
        factors = [rate * self._strength for rate in self._rates_of_parameters()]
        torch._foreach_mul_(self._share, factors)
        torch._foreach_div_(self._share, torch._foreach_add(self._share, 1.0))
        self._share_rates = rates

    @torch.no_grad()
    def metrics(self) -> Mapping[str, Tensor | float]:
        figures: dict[str, Tensor | float] = {"consolidations": float(self.consolidations)}
        if self._importance:
            entries = sum(weight.numel() for weight in self._weights)
            total = torch.stack([weight.sum() for weight in self._importance]).sum()
            ways = torch._foreach_sub(list(self._weights), self._anchor)
            figures |= {
                "importance_mean": total / entries,
                "distance": torch.stack(torch._foreach_norm(ways)).norm(),
                "penalty": self._penalty(ways),
            }
        return figures

    def _penalty(self, ways: Sequence[Tensor]) -> Tensor:
        """strength / 2 * sum F (w - a)^2, given w - a."""
        squares = torch._foreach_mul(torch._foreach_mul(list(ways), list(ways)), self._importance)
        return torch.stack([square.sum() for square in squares]).sum().mul_(0.5 * self._strength)

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
        self._share_rates = []

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
