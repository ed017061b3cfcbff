"""What a Hebbian rule is: who learns how much from a patch, and what pulls the weights back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

InverseTemperature = Annotated[
    float,
    Field(
        gt=0.0,
        description="t of softmax(t u): the larger, the fewer kernels share a patch",
        json_schema_extra={"unit": "1 / pre-activation"},
    ),
]


class Rule(ABC):
    """The post-synaptic term y of a layer; stateless, without randomness.

    With u = <w_j, patch> the layer moves kernel j along

        D_j = sum of y_j patch - decay_j w_j

    over all places and rows, where decay_j is the sum of y_j u_j (`decay = "potential"`, Oja's,
    which keeps the norm near 1), of |y_j u_j| (`"magnitude"`, which also shortens a kernel where y
    and u disagree), or of y_j (`"activity"`, which draws the kernel to the patch itself).
    """

    decay: ClassVar[Literal["potential", "magnitude", "activity"]] = "potential"
    #: norm of first weights, unless another is asked for
    radius: ClassVar[float] = 25.0
    #: whether `activities` cannot do without labels
    needs_labels: ClassVar[bool] = False

    def check_kernels(self, kernels: int) -> None:  # noqa: B027
        """Refuse a layer of so many kernels, when it is built.

        Raises:
            OperatorError: the rule needs others.
        """

    @abstractmethod
    def activities(self, potentials: Tensor, labels: Tensor | None) -> Tensor:
        """y, in memory of its own, as (rows, kernels, *places) as `potentials`.

        Args:
            potentials: u, not to be changed.
            labels: (rows,) integers where the rule needs them, else ignored.
        """
