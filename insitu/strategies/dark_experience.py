"""What DER and DER++ share: outputs that are remembered beside their samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from insitu.batch import Batch
from insitu.memory.base import Memory
from insitu.objectives.base import Objective
from insitu.strategies.base import Observation
from insitu.strategies.rehearsal import Rehearsal
from insitu.strategies.replay_augmentation import Augmentation

#: the memory's field for outputs; no name that a field of a stream could have
OUTPUTS = "@outputs"

Alpha = Annotated[
    float,
    Field(
        ge=0.0,
        description="weight of the distance to remembered outputs",
        json_schema_extra={"unit": "ratio"},
    ),
]


class DarkExperience(Rehearsal):
    """Pulls outputs for remembered samples to what they were when the samples were fresh.

    Args:
        memory: where samples and outputs are kept; this strategy is its only writer.
        objective: says how far outputs are from one another.
        alpha: weight of the mean distance.
        label_weight: weight of the mean label loss of label rows (beta).
    """

    figures: ClassVar[Mapping[str, str]] = {
        **Rehearsal.figures,
        "output_distance": "mean distance to the remembered outputs in the last update",
    }

    def __init__(
        self,
        memory: Memory,
        objective: Objective,
        *,
        samples_per_step: int,
        warm_up_samples: int,
        augment: Augmentation | None,
        alpha: float,
        label_weight: float = 0.0,
    ) -> None:
        super().__init__(
            memory,
            samples_per_step=samples_per_step,
            warm_up_samples=warm_up_samples,
            augment=augment,
        )
        self._objective = objective
        self._alpha = alpha
        self._label_weight = label_weight
        self._targets: Tensor | None = None
        self._labelled = 0
        self._distance: Tensor | None = None

    def parts(self, rows: int) -> tuple[int, int]:
        """Of so many drawn rows: how many from the first on are pulled to their outputs, and how
        many up to the last train their labels. They may overlap."""
        return rows, 0

    def prepared(self, remembered: Batch) -> Batch:
        pulled, self._labelled = self.parts(remembered.rows)
        self._targets = remembered.fields[OUTPUTS][:pulled]
        return super().prepared(remembered)

    def losses(self, batch: Batch, outputs: Tensor, losses: Tensor) -> Tensor:
        if not self.has_own(len(losses)):
            return losses
        return losses * self._row_weights(len(losses), losses.device)

    def _row_weights(self, rows: int, device: torch.device) -> Tensor:
        """(rows,) such that the mean is: mean of the others + label_weight * mean of label rows."""
        key = (rows, self.own.start, self.own.stop)
        if self._weights is None or self._weights[0] != key:
            own = self.own.stop - self.own.start
            weights = torch.full((rows,), rows / (rows - own), device=device)
            weights[self.own] = 0.0
            if self._labelled:
                labelled = slice(self.own.stop - self._labelled, self.own.stop)
                weights[labelled] = self._label_weight * rows / self._labelled
            self._weights = key, weights
        return self._weights[1]

    def penalty(self, batch: Batch, outputs: Tensor) -> Tensor | None:
        if self._targets is None or not self.has_own(len(outputs)):
            return None
        begin = self.own.start
        now = outputs[begin : begin + len(self._targets)].to(torch.float32)
        targets = self._targets.to(now.device, non_blocking=True)
        distance = self._objective.distances(now, targets).mean()
        self._distance = distance.detach()
        return self._alpha * distance

    def remembered(self, fresh: Batch, observation: Observation) -> Batch:
        outputs = observation.outputs[: fresh.rows].to(torch.float32)
        return fresh.with_fields({**fresh.fields, OUTPUTS: outputs})

    def metrics(self) -> Mapping[str, Tensor | float]:
        distance = 0.0 if self._distance is None else self._distance
        return {**super().metrics(), "output_distance": distance}
