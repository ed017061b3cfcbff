"""Task-balancing reservoir sampling: every task keeps the same share of the memory.

Lopez-Paz and Ranzato, "Gradient Episodic Memory for Continual Learning", NeurIPS 2017, give every
task the same quota; within it, here, a uniform choice of the task's samples. Number of tasks and
borders need not be known: the quota of the tasks seen so far shrinks as others appear.

Deviations: GEM keeps the last samples of a task and divides by a number of tasks that is given.
Here the balancing is that of class-balancing reservoir sampling (Chrysakis and Moens, ICML 2020,
algorithm 1) with tasks for classes, see `insitu.memory.balanced_reservoir`. The sizes of tasks that
have offered enough differ by one at most, whatever the order in which tasks come and return.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from insitu.batch import Batch
from insitu.memory.balanced_reservoir import BalancedReservoir
from insitu.memory.groups import tasks
from insitu.sampling import Indices


class TaskBalanced(BalancedReservoir):
    """Remembers about as many samples of every task, each task by a reservoir of its own.

    Example:
        >>> memory = TaskBalanced(4, torch.device("cpu"), torch.Generator().manual_seed(0))
        >>> for task in range(2):
        ...     memory.add(Batch.of({"x": torch.zeros(50)}, task=task))
        >>> memory.composition()
        {0: 2, 1: 2}
    """

    def __init__(
        self,
        capacity_samples: int,
        device: torch.device,
        generator: torch.Generator,
        *,
        most_tasks: Annotated[
            int,
            Field(
                ge=1,
                description="distinct tasks that are accepted",
                json_schema_extra={"unit": "tasks"},
            ),
        ] = 10_000,
    ) -> None:
        super().__init__(capacity_samples, device, generator, most_tasks)

    def _labels(self, batch: Batch) -> Indices:
        return tasks(batch)


COMPONENT = TaskBalanced
