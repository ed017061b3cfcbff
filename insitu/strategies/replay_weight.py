"""A weight that follows the loss on memory: the worse the memory is held, the more it counts.

After every update with replayed rows of mean loss L_mem and other rows of mean loss L_new,

    w <- clip(w * exp(clip(rate * (L_mem / L_target - 1), -1, 1)), least, most)

with L_target = target (`loss`) or target * L_new (`loss_ratio`). It is a multiplicative integral
controller: the weight stands still where L_mem is L_target. The rule is our own; the inner clip
keeps one bad batch from moving the weight by more than a factor of e.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

WeightControl = Annotated[
    Literal["fixed", "loss", "loss_ratio"],
    Field(
        description="fixed: replay_weight stays; loss: it follows the loss of the replayed rows "
        "towards weight_target; loss_ratio: towards weight_target times the loss of the other rows"
    ),
]
WeightTarget = Annotated[
    float,
    Field(
        gt=0.0,
        description="the loss on replayed rows (or its ratio to that on fresh ones) to hold",
        json_schema_extra={"unit": "loss, or ratio"},
    ),
]
WeightRate = Annotated[
    float,
    Field(
        gt=0.0,
        le=1.0,
        description="how fast the weight follows: share of the relative error, per update",
        json_schema_extra={"unit": "ratio"},
    ),
]
WeightMost = Annotated[
    float,
    Field(
        gt=1.0,
        description="the weight stays between 1 / this and this",
        json_schema_extra={"unit": "ratio"},
    ),
]


class ControlledWeight:
    """The weight of the replayed rows, on the device of the losses.

    Example:
        >>> weight = ControlledWeight(1.0, "loss", target=0.5, rate=0.1, most=10.0)
        >>> weight.follow(torch.tensor([9.0, 1.0, 1.0]), slice(1, 3))
        >>> round(weight.value.item(), 4)  # exp(0.1 * (1.0 / 0.5 - 1))
        1.1052
    """

    def __init__(
        self, value: float, control: str, *, target: float, rate: float, most: float
    ) -> None:
        self.value = torch.tensor(float(value))
        self._control = control
        self._target = target
        self._rate = rate
        self._most = most

    def on(self, device: torch.device) -> Tensor:
        """The weight, 0-dim; moves to the device the first time."""
        if self.value.device != device:
            self.value = self.value.to(device)
        return self.value

    def follow(self, losses: Tensor, own: slice) -> None:
        """Move after an update; `losses` of all rows, of which `own` are the replayed ones."""
        replayed, count = losses[own].mean(), own.stop - own.start
        target: float | Tensor = self._target
        if self._control == "loss_ratio":
            others = (losses.sum() - replayed * count) / (len(losses) - count)
            target = (others * self._target).clamp_min(torch.finfo(losses.dtype).tiny)
        exponent = ((replayed / target - 1) * self._rate).clamp(-1, 1)
        moved = self.on(losses.device) * exponent.exp()
        self.value = moved.clamp(1 / self._most, self._most)
