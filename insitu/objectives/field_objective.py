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
    is_likelihood = True
    target_field: str
    loss: Distance

    def drawn_targets(self, outputs: Tensor, batch: Batch, generator: torch.Generator) -> Batch:
        """Targets around the outputs: the loss is a log likelihood up to factor and constant.

        The mean of D squares is that of a Gaussian of variance D / 2, the mean of D absolute
        values that of a Laplace distribution of scale D.
        """
        outputs = self.checked(outputs).detach()
        elements = outputs[0].numel() if len(outputs) else 1
        if self.loss == "mse":
            noise = torch.randn(outputs.shape, generator=generator) * (elements / 2) ** 0.5
        else:
            uniform = torch.rand(outputs.shape, generator=generator) - 0.5
            noise = -elements * uniform.sign() * torch.log1p(-2 * uniform.abs())
        drawn = outputs + noise.to(outputs)
        return batch.with_fields({**batch.fields, self.target_field: drawn})

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
