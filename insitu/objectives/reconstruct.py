"""Reconstruction: the model's output is its input again (autoencoders)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from insitu.batch import Batch
from insitu.objectives.base import Headline, Objective
from insitu.objectives.field_error import (
    Distance,
    distance_per_sample,
    relative_error,
    root_mean_square,
)
from insitu.objectives.schema_checks import real_field, same_shapes
from insitu.schema import Schema


class Reconstruct(Objective):
    """Distance between the model's output and the field that it was fed.

    `target` names another field of the same shape where the input is a spoiled version of what
    is wanted (denoising, gaps); it then shares the input's statistics.

    Scores: `rmse` (units of the normalised field), `relative_error` (L2, 1 is a constant guess).

    Example:
        >>> objective = Reconstruct(Schema.of({"u": ("float32", (2, 5, 7))}), input="u")
        >>> batch = Batch.of({"u": torch.ones(3, 2, 5, 7)})
        >>> objective.losses(torch.zeros(3, 2, 5, 7), batch)
        tensor([1., 1., 1.])
    """

    headline = Headline("relative_error", higher_is_better=False)

    def __init__(
        self,
        schema: Schema,
        *,
        input: Annotated[str, Field(description="field that the model is fed")] = "x",
        target: Annotated[
            str | None, Field(description="field to reproduce; the input itself when left out")
        ] = None,
        loss: Annotated[
            Distance, Field(description="mean squared (mse) or mean absolute (l1) difference")
        ] = "mse",
    ) -> None:
        source = real_field(schema, "reconstruct", "input", input)
        self.target_field = target or input
        wanted = real_field(schema, "reconstruct", "target", self.target_field)
        same_shapes("reconstruct", (source, wanted))
        super().__init__(
            input_field=input,
            input_shape=source.shape,
            output_shape=wanted.shape,
            statistics_of={input: input, self.target_field: input},
        )
        self.loss = loss

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


COMPONENT = Reconstruct
