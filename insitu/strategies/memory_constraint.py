"""Strategies that hold a step to what one gradient over the memory allows: A-GEM and its kin.

The part that they share: a memory that they write, a reference gradient over a draw from it, and
the projection of the step's gradient onto <g, r> >= floor. The floor is 0 unless a strategy says
otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from insitu.batch import Batch, Column
from insitu.criterion import Criterion
from insitu.memory.base import Memory
from insitu.strategies.base import Observation, Strategy, check_state_keys
from insitu.strategies.gradient_stack import Per
from insitu.strategies.half_space import gradients_of, project

#: which of the remembered samples a reference gradient is taken over
ReferenceRows = Literal["former_tasks", "memory"]

ReferenceSamples = Annotated[
    int,
    Field(
        ge=1,
        description="remembered samples that are drawn for the reference gradient of a step",
        json_schema_extra={"unit": "samples"},
    ),
]
WhichRows = Annotated[
    ReferenceRows,
    Field(
        description="former_tasks leaves out drawn samples of the tasks in the fresh rows, so the "
        "first task is learned freely; memory takes all, for streams without tasks"
    ),
]


class MemoryConstraint(Strategy):
    """Base: <gradient, reference> >= floor, by the least change of the gradient.

    Args:
        criterion: gives the reference gradient.
        memory: where samples are kept; this strategy is its only writer.
        reference_samples: 1 or more.
        reference: over which of them the gradient is taken.
        per: `network` or `tensor`.
    """

    figures: ClassVar[Mapping[str, str]] = {
        "memory_samples": "samples: remembered now",
        "constrained_steps": "steps: updates that had a reference gradient",
        "projected_share": "ratio: share of them whose gradient was changed",
    }

    def __init__(
        self,
        criterion: Criterion,
        memory: Memory,
        *,
        reference_samples: int,
        reference: ReferenceRows,
        per: Per,
    ) -> None:
        self.memory = memory
        self._criterion = criterion
        self._reference_samples = reference_samples
        self._reference_rows = reference
        self._per: Per = per
        self._fresh_tasks = np.empty(0, np.int64)
        self._constrained_steps = 0
        # on the device, so that counting waits for nothing
        self._projected_steps = torch.zeros(
            (), dtype=torch.int64, device=criterion.parameters[0].device
        )

    def augment(self, batch: Batch) -> Batch:
        self._fresh_tasks = batch.provenance.numpy()[: batch.fresh_rows, Column.TASK].copy()
        return batch

    def adjust_gradients(self) -> None:
        rows = self._drawn()
        if rows is None:
            return
        loss = self._criterion.losses(rows).mean()
        reference = self._criterion.gradient_of(loss)
        gradients = gradients_of(self._criterion.parameters)
        amounts = self._project(gradients, reference, loss.detach())
        self._constrained_steps += 1
        self._projected_steps += (amounts > 0).any()

    def _project(self, gradients: list[Tensor], reference: list[Tensor], loss: Tensor) -> Tensor:
        """Change the gradients in place, here to <g, r> >= 0; how much of r was added.

        Args:
            gradients: g, the parameters' own.
            reference: r, to be overwritten.
            loss: 0-dim, whose gradient r is, detached.
        """
        return project(gradients, reference, self._per)

    def _drawn(self) -> Batch | None:
        """Rows for the reference loss; None when there are none."""
        slots = self.memory.draw(min(self._reference_samples, len(self.memory)))
        if self._reference_rows == "former_tasks":
            tasks = self.memory.provenance.numpy()[slots, Column.TASK]
            slots = slots[np.isin(tasks, self._fresh_tasks, invert=True)]
        return self.memory.read(slots) if len(slots) else None

    def observe(self, observation: Observation) -> None:
        if observation.last:
            fresh = observation.batch.fresh()
            self.memory.add(fresh, observation.losses[: fresh.rows])

    def metrics(self) -> Mapping[str, Tensor | float]:
        return {
            "memory_samples": float(len(self.memory)),
            "constrained_steps": float(self._constrained_steps),
            "projected_share": self._projected_steps / max(self._constrained_steps, 1),
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "memory": self.memory.state_dict(),
            "constrained_steps": self._constrained_steps,
            "projected_steps": self._projected_steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        check_state_keys(self.name, state, self.state_dict())
        self.memory.load_state_dict(state["memory"])
        self._constrained_steps = int(state["constrained_steps"])
        self._projected_steps.copy_(state["projected_steps"])
