"""GEC: keep the loss on the memory below a tolerance, and learn freely beneath it.

Lai et al., "Gradient-Guided Epsilon Constraint Method for Online Continual Learning" (2025): learn
the fresh rows subject to memory loss <= tolerance, by a step that depends on whether that holds.
With g the gradient of the step, L_M the mean loss over samples drawn from the memory and r its
gradient, in `adjust_gradients`,

    g <- argmin_x 1/2 |x - g|^2  subject to  <x, r> >= floor
       = g + max(0, floor - <g, r>) / <r, r> r

    floor =  strength * <r, r>            where L_M > tolerance: pay back, whatever else happens
    floor = -rate * (tolerance - L_M)     else: the closer to it, the slower the loss may rise

So it is A-GEM's quadratic programme with another floor. Where g and r do not touch (<g, r> = 0), a
violated constraint with strength 1 adds r, which is experience replay; where g serves the memory
already nothing is added, and where it harms it more is.

Deviations: we know the method from its abstract; the two floors are our reading of it, the second
one the dynamic barrier of Gong, Liu and Liu, "Bi-objective Trade-off with Dynamic Barrier Gradient
Descent" (2021). L_M is that of one draw, not smoothed. With `per: tensor`, which is ours, every
parameter tensor has a floor of its own, a share <r_l, r_l> / <r, r> of the whole one, so the
constraint on the network holds as well. Where r is zero nothing changes; where it is not finite the
step is not either, and the trainer refuses it.

Costs: one more forward and backward pass over `reference_samples` rows, two products and at most
one sum over all weights.

Keeps: the samples of the memory.

Use it when: replay trains too much or too little on the memory and you would rather name a loss
that is good enough than a weight. The tolerance is in the units of the objective's loss. On split
digits (5 tasks of 2, memory 100, one pass, 3 seeds) it ended at 85, 87, 88 and 89 % with strengths
of 1, 2, 3 and 5, where A-GEM had 52 % and GEM 86 %; a strength multiplies the step, so a learning
rate at the limit of what is stable wants 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from insitu.criterion import Criterion
from insitu.memory.base import Memory
from insitu.strategies.gradient_stack import Per
from insitu.strategies.half_space import products, project
from insitu.strategies.memory_constraint import MemoryConstraint, ReferenceSamples, WhichRows


class GEC(MemoryConstraint):
    """Lowers the loss on the memory while it is above a tolerance, and limits its rise below.

    Args:
        criterion: gives the reference gradient.
        memory: where samples are kept; this strategy is its only writer.

    Example:
        >>> from insitu.memory.reservoir import Reservoir
        >>> from insitu.objectives.regress import Regress
        >>> from insitu.schema import Schema
        >>> schema = Schema.of({"x": ("float32", (1,)), "y": ("float32", (1,))})
        >>> criterion = Criterion(torch.nn.Linear(1, 1), Regress(schema))
        >>> memory = Reservoir(8, torch.device("cpu"), torch.Generator())
        >>> sorted(GEC(criterion, memory, tolerance=0.2).metrics())
        ['constrained_steps', 'memory_loss', 'memory_samples', 'projected_share']
    """

    name = "gec"
    figures: ClassVar[Mapping[str, str]] = {
        **MemoryConstraint.figures,
        "memory_loss": "loss: mean over the latest draw from the memory, before the update",
    }

    def __init__(
        self,
        criterion: Criterion,
        memory: Memory,
        *,
        tolerance: Annotated[
            float,
            Field(
                ge=0.0,
                description="mean loss on the memory that is good enough",
                json_schema_extra={"unit": "loss"},
            ),
        ] = 0.1,
        strength: Annotated[
            float,
            Field(
                gt=0.0,
                description="above the tolerance: the memory's loss must sink at least this many "
                "times as fast as by a step on the memory alone",
                json_schema_extra={"unit": "ratio"},
            ),
        ] = 2.0,
        rate: Annotated[
            float,
            Field(
                ge=0.0,
                description="below the tolerance: share of the loss that is left until there by "
                "which the memory's loss may rise, for a learning rate of 1; 0 lets it rise never",
                json_schema_extra={"unit": "ratio"},
            ),
        ] = 1.0,
        per: Annotated[
            Per, Field(description="one constraint on all parameters, or one on each tensor")
        ] = "network",
        reference_samples: ReferenceSamples = 64,
        reference: WhichRows = "memory",
    ) -> None:
        super().__init__(
            criterion, memory, reference_samples=reference_samples, reference=reference, per=per
        )
        self._tolerance = tolerance
        self._strength = strength
        self._rate = rate
        self._memory_loss = torch.zeros((), device=criterion.parameters[0].device)

    def _project(self, gradients: list[Tensor], reference: list[Tensor], loss: Tensor) -> Tensor:
        self._memory_loss = loss
        squares = products(reference, reference, self._per)
        slack = self._tolerance - loss.to(torch.float64)
        limits = -self._rate * slack * (squares / squares.sum())
        floors = torch.where(slack < 0, self._strength * squares, limits)
        return project(gradients, reference, self._per, floors=floors, squares=squares)

    def metrics(self) -> Mapping[str, Tensor | float]:
        return {**super().metrics(), "memory_loss": self._memory_loss}


COMPONENT = GEC
