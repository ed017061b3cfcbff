"""Gradient-based sample selection: samples whose gradients point different ways.

Aljundi et al., "Gradient based sample selection for online continual learning", NeurIPS 2019,
algorithm 2 (GSS-Greedy). With g the gradient of the loss of a sample by all weights,

    c = max_{j in n random remembered samples} cos(g, g_j) + 1          the sample's score, 0 to 2
    memory not full     keep it, C = c
    c < 1               draw i with P(i) = C_i / sum_j C_j, and replace it, C_i = c, with
                        probability C_i / (C_i + c)
    else                pass it over

Deviations: the gradients of the n random samples are taken once a batch, not once a sample. What
comes to an empty memory has nothing to be compared with and scores 1, as if at right angles to all.
With `rows_per_gradient` above 1 so many neighbouring rows share the gradient of their mean loss.
Gradients are those of the model in evaluation mode.

Costs (fresh rows / `rows_per_gradient` + `reference_samples`) forward and backward passes of one
row each per batch, many times a plain step, and on a GPU the wait for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from insitu.batch import Batch
from insitu.criterion import Criterion
from insitu.evaluation import evaluation_mode
from insitu.memory.base import Memory
from insitu.sampling import Indices, distinct

_Scores = npt.NDArray[np.float64]


class GradientDiversity(Memory):
    """Remembers samples that teach different things.

    Args:
        criterion: gives the gradient of raw rows.
    """

    def __init__(
        self,
        capacity_samples: int,
        device: torch.device,
        generator: torch.Generator,
        criterion: Criterion,
        *,
        reference_samples: Annotated[
            int,
            Field(
                ge=1,
                description="random remembered samples that fresh ones are compared with",
                json_schema_extra={"unit": "samples"},
            ),
        ] = 10,
        rows_per_gradient: Annotated[
            int,
            Field(
                ge=1,
                description="fresh samples that share one gradient; 1 is the paper's",
                json_schema_extra={"unit": "samples"},
            ),
        ] = 1,
    ) -> None:
        super().__init__(capacity_samples, device, generator)
        self._criterion = criterion
        self._reference_samples = reference_samples
        self._rows_per_gradient = rows_per_gradient
        self._scores = np.ones(capacity_samples)

    def _place(self, batch: Batch, rows: Indices) -> tuple[Indices, Indices]:
        scores = self._scores_of(batch, rows)
        draws = torch.rand(len(rows), 2, dtype=torch.float64, generator=self._generator).numpy()
        filled, slots = len(self), np.full(len(rows), -1)
        for row, score in enumerate(scores.tolist()):
            if filled < self.capacity_samples:
                slots[row] = filled
                filled += 1
            elif score < 1:
                slots[row] = self._replaced(score, draws[row])
            if slots[row] >= 0:
                self._scores[slots[row]] = score
        kept = (slots >= 0).nonzero()[0]
        return slots[kept], rows[kept]

    def _replaced(self, score: float, draws: _Scores) -> int:
        """The slot that a diverse sample takes, or -1."""
        sums = self._scores.cumsum()
        if sums[-1] == 0:
            return -1
        slot = int(np.searchsorted(sums, draws[0] * sums[-1], side="right"))
        other = self._scores[slot]
        return slot if draws[1] * (other + score) < other else -1

    def _scores_of(self, batch: Batch, rows: Indices) -> _Scores:
        """Largest cosine with the gradients of random remembered samples, plus 1, for each row."""
        if len(self) == 0:
            return np.ones(len(rows))
        count = min(self._reference_samples, len(self))
        remembered = self.read(distinct(len(self), count, self._generator))
        reference = self._directions(remembered, [slice(i, i + 1) for i in range(count)])
        groups = _groups(batch, rows, self._rows_per_gradient)
        with torch.no_grad():
            cosines = self._directions(batch, groups) @ reference.T
            largest = cosines.amax(1).to("cpu", torch.float64).clamp(-1.0, 1.0)
        each: _Scores = largest.numpy().repeat(self._rows_per_gradient)[: len(rows)] + 1.0
        return each

    def _directions(self, batch: Batch, groups: Sequence[slice | Tensor]) -> Tensor:
        """(groups, weights) gradients of unit length."""
        criterion = self._criterion
        with evaluation_mode(criterion.module), torch.enable_grad():
            found = [
                torch.cat([g.flatten() for g in criterion.gradient(batch.select(group, 0))])
                for group in groups
            ]
        return functional.normalize(torch.stack(found), dim=1)

    def _policy_state(self) -> dict[str, Any]:
        return {"scores": torch.from_numpy(self._scores[: len(self)])}

    def _load_policy_state(self, state: Mapping[str, Any]) -> None:
        self._scores[:] = 1.0
        self._scores[: len(self)] = state["scores"].cpu().numpy()


def _groups(batch: Batch, rows: Indices, size: int) -> list[slice | Tensor]:
    """The rows in parts of `size`; as views where no row is left out."""
    if len(rows) == batch.rows:
        return [slice(start, start + size) for start in range(0, batch.rows, size)]
    chosen = torch.from_numpy(rows)
    return [chosen[start : start + size] for start in range(0, len(rows), size)]


COMPONENT = GradientDiversity
