"""What objectives on real-valued fields share: a distance per sample, and its figures."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from insitu.batch import Batch
from insitu.objectives.base import Headline, Objective
from insitu.objectives.field_error import (
    Distance,
    distance_per_sample,
    relative_error,
    root_mean_square,
)


class FieldObjective(Objective):
    """Compares the model's outputs with a target field of the batch.

    Subclasses set `target_field` and `loss` when they are made.
    """

    headline = Headline("relative_error", higher_is_better=False)
    target_field: str
    loss: Distance

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        targets = self.real(batch, self.target_field)
        return distance_per_sample(self.loss, self.checked(outputs), targets)

    @torch.no_grad()
    def scores(self, outputs: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        outputs, targets = self.checked(outputs), self.real(batch, self.target_field)
        return {
            "rmse": root_mean_square(outputs, targets),
            "relative_error": relative_error(outputs, targets),
        }
