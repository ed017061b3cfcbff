"""A-GEM: no step may raise the loss on the memory, to first order.

Chaudhry et al., "Efficient Lifelong Learning with A-GEM" (2019), eq. 10 and 11. With g the gradient
of the step and r that of the mean loss over samples drawn from the memory,

    r <- gradient of the loss over a draw from the memory       adjust_gradients
    g <- g - min(0, <g, r>) / <r, r> r
    memory <- update(memory, fresh rows)                        observe

All parameters are one vector; `layerwise_a_gem` projects each parameter tensor by itself. `gem` has
one constraint a task, `gec` a floor that is not zero: all three are the same quadratic programme.

Deviations: the memory is filled while a task runs and by its own policy, not at the end of a task
with as many samples a class. What it remembers of the tasks in the fresh rows is left out of r, so
r is over former tasks as in the paper, with fewer samples than were drawn. A reference gradient of
zero changes nothing. Where r is not finite the step is not either, and the trainer refuses it.

Costs: one more forward and backward pass over `reference_samples` rows, two products and at most
one sum over all weights.

Keeps: the samples of the memory.

Use it when: former samples may be looked at but not trained, or new data must be learned at full
speed where it does not conflict. At the same cost experience replay and GEC mostly forget less. On
a stream without tasks set `reference: memory`; otherwise it does nothing there.
"""

from __future__ import annotations

from typing import ClassVar

from insitu.criterion import Criterion
from insitu.memory.base import Memory
from insitu.strategies.gradient_stack import Per
from insitu.strategies.memory_constraint import MemoryConstraint, ReferenceSamples, WhichRows


class AGEM(MemoryConstraint):
    """Takes out of the gradient what would raise the loss on the memory.

    Args:
        criterion: gives the reference gradient.
        memory: where samples are kept; this strategy is its only writer.

    Example:
        >>> import torch
        >>> from insitu.batch import Batch
        >>> from insitu.memory.reservoir import Reservoir
        >>> from insitu.objectives.regress import Regress
        >>> from insitu.schema import Schema
        >>> schema = Schema.of({"x": ("float32", (1,)), "y": ("float32", (1,))})
        >>> model = torch.nn.Linear(1, 1)
        >>> memory = Reservoir(8, torch.device("cpu"), torch.Generator())
        >>> memory.add(Batch.of({"x": torch.ones(4, 1), "y": torch.ones(4, 1)}, task=1))
        >>> strategy = AGEM(Criterion(model, Regress(schema)), memory)
        >>> strategy.adjust_gradients()
        >>> strategy.metrics()["constrained_steps"]
        1.0
    """

    name = "a_gem"
    #: what is projected: all parameters as one vector, or each tensor by itself
    per: ClassVar[Per] = "network"

    def __init__(
        self,
        criterion: Criterion,
        memory: Memory,
        *,
        reference_samples: ReferenceSamples = 64,
        reference: WhichRows = "former_tasks",
    ) -> None:
        super().__init__(
            criterion,
            memory,
            reference_samples=reference_samples,
            reference=reference,
            per=self.per,
        )


COMPONENT = AGEM
