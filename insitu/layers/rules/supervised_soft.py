"""Supervised soft: a last layer with one kernel a class, taught by the labels.

After Moraitis et al., "SoftHebb: Bayesian inference in unsupervised Hebbian soft winner-take-all
networks" (2022): given the label, the posterior of the cause is certain, y = 1 for the label's
kernel and 0 for the others, and kernels become the mean directions of their classes. With contrast
c the layer's own posterior is unlearned as well,

    y = onehot(label) - c softmax(t u)

which for c = 1 is the delta rule: the gradient of the cross entropy, with a decay of |y u| w.

Deviations: the contrast, the decay and the first norm are ours. Oja's decay is y u w. Elsewhere a
kernel learns where it answers most, so y u > 0 and it is shortened; here the label chooses, and
where y u < 0 that decay would lengthen the kernel, by the square of its norm: from a norm of 25
norms grew without end, to 2,800 within 420 updates on the digits at an adaptive rate of 0.1, and
where classes came one after the other from a norm of 1, too, to 1,100. With |y u| they fall, from
any, and settle between 0.3 and 1. First weights have a norm of 1 (`radius`), since there is nothing
to come down from. A row whose label is no kernel's (-1: none) teaches nothing.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from insitu.errors import InternalError
from insitu.layers.rules.base import InverseTemperature, Rule
from insitu.layers.rules.competition import soft_shares


class SupervisedSoft(Rule):
    """y = onehot(label) - contrast softmax(t u), 0 for rows without a label.

    Example:
        >>> rule = SupervisedSoft(inverse_temperature=1.0, contrast=1.0)
        >>> rule.activities(torch.zeros(2, 2), torch.tensor([1, -1]))
        tensor([[-0.5000,  0.5000],
                [ 0.0000,  0.0000]])
    """

    decay: ClassVar[Literal["potential", "magnitude", "activity"]] = "magnitude"
    radius: ClassVar[float] = 1.0
    needs_labels: ClassVar[bool] = True

    def __init__(
        self,
        *,
        inverse_temperature: InverseTemperature = 1.0,
        contrast: Annotated[
            float,
            Field(
                ge=0.0,
                le=1.0,
                description="how strongly the layer's own guess is unlearned",
                json_schema_extra={"unit": "ratio"},
            ),
        ] = 1.0,
    ) -> None:
        self.inverse_temperature, self.contrast = inverse_temperature, contrast

    def activities(self, potentials: Tensor, labels: Tensor | None) -> Tensor:
        if labels is None:
            raise InternalError("rule supervised_soft was asked for activities without labels")
        kernels = potentials.shape[1]
        column = labels.reshape(-1, *(1,) * (potentials.dim() - 1))
        known = (column >= 0) & (column < kernels)
        taught = column.clamp(0, kernels - 1).expand(-1, 1, *potentials.shape[2:])
        y = soft_shares(potentials, self.inverse_temperature).mul_(-self.contrast)
        y.scatter_add_(1, taught, torch.ones_like(y[:, :1]))
        return torch.where(known, y, 0.0)


COMPONENT = SupervisedSoft
