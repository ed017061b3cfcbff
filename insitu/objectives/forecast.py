"""Forecasting: a field at time t -> the same field at t + dt.

Strategies: works with all that do not need classes (`labels` is None: class-balanced memories and
ER-ACE refuse it). Rows are independent; squared and absolute differences are log likelihoods of a
Gaussian and a Laplace distribution, so a true Fisher information is defined.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from insitu.batch import Batch
from insitu.objectives.field_error import Distance, root_mean_square
from insitu.objectives.field_objective import FieldObjective
from insitu.objectives.schema_checks import real_field, same_shapes
from insitu.schema import Schema


class Forecast(FieldObjective):
    """Distance between the model's step and the simulation's.

    Input and target are one quantity at two times, so the target is normalised by the input's
    statistics. With `residual` the outputs are `input + model(input)`: the model learns the
    change, which is the easier half when dt is short.

    Scores: `rmse`, `relative_error`, and `rmse_persistence`, the rmse of saying that nothing
    changes; a model above it has learnt nothing.

    Example:
        >>> schema = Schema.of({"x": ("float32", (4,)), "y": ("float32", (4,))})
        >>> objective = Forecast(schema, residual=True)
        >>> batch = Batch.of({"x": torch.ones(2, 4), "y": torch.full((2, 4), 3.0)})
        >>> objective.losses(objective.predict(nn.Identity(), batch), batch)
        tensor([1., 1.])
    """

    def __init__(
        self,
        schema: Schema,
        *,
        input: Annotated[str, Field(description="the field at time t")] = "x",
        target: Annotated[str, Field(description="the field at time t + dt")] = "y",
        residual: Annotated[
            bool, Field(description="let the model predict the change, not the field")
        ] = False,
        loss: Annotated[
            Distance, Field(description="mean squared (mse) or mean absolute (l1) difference")
        ] = "mse",
    ) -> None:
        before = real_field(schema, "forecast", "input", input)
        after = real_field(schema, "forecast", "target", target)
        same_shapes("forecast", (before, after))
        super().__init__(
            input_field=input,
            input_shape=before.shape,
            output_shape=after.shape,
            statistics_of={input: input, target: input},
        )
        self.target_field = target
        self.residual = residual
        self.loss = loss

    def predict(self, model: nn.Module, batch: Batch) -> Tensor:
        outputs = super().predict(model, batch)
        return self.inputs(batch) + self.checked(outputs) if self.residual else outputs

    @torch.no_grad()
    def scores(self, outputs: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        targets = self.real(batch, self.target_field)
        persistence = root_mean_square(self.inputs(batch), targets)
        return {**super().scores(outputs, batch), "rmse_persistence": persistence}


COMPONENT = Forecast
