"""Conditional density: the negative log likelihood of a field, given another.

The model is fed x and the condition, flattened, one behind the other, and gives one log density
a row; it has to be a normalised one, such as `conditional_flow`, or the loss falls for ever.
Densities are of what the model sees: a normaliser that divides x by its standard deviations s
lowers the loss by sum log s.

Strategies: works with those that need losses alone. Targets cannot be drawn from a log density,
so Fisher informations are empirical. `distances` compares log densities. There are no labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from insitu.batch import Batch
from insitu.errors import OperatorError
from insitu.objectives.base import Objective
from insitu.objectives.schema_checks import real_field
from insitu.schema import Schema


class Density(Objective):
    """-log p(x | condition), in nats a sample, by a model that gives log densities.

    Scores: `log_likelihood`, the mean log density in nats, the loss with the other sign.

    Example:
        >>> schema = Schema.of({"x": ("float32", (2,)), "time": ("float32", ())})
        >>> objective = Density(schema, condition="time")
        >>> objective.input_shape, objective.output_shape
        ((3,), (1,))
    """

    def __init__(
        self,
        schema: Schema,
        *,
        input: Annotated[str, Field(description="field whose density is learned")] = "x",
        condition: Annotated[
            str | None, Field(description="field that the density depends on; left out: none")
        ] = None,
    ) -> None:
        fields = [real_field(schema, "density", "input", input)]
        if condition is not None:
            fields.append(real_field(schema, "density", "condition", condition))
        sizes = [math.prod(field.shape) for field in fields]
        super().__init__(
            input_field=input,
            input_shape=(sum(sizes),),
            output_shape=(1,),
            statistics_of={field.name: field.name for field in fields},
        )
        self.condition_field = condition
        #: how many of the inputs are x; the rest is the condition
        self.dimensions = sizes[0]

    def inputs(self, batch: Batch) -> Tensor:
        """(rows, dimensions + conditions) float32."""
        names = [self.input_field]
        if self.condition_field is not None:
            names.append(self.condition_field)
        parts = [self.real(batch, name) for name in names]
        return torch.cat([p.reshape(p.shape[0], math.prod(p.shape[1:])) for p in parts], dim=1)

    def network(self, model: nn.Module) -> nn.Module:
        """The model itself; refuses one that takes another part of its inputs for x."""
        dimensions = getattr(model, "dimensions", self.dimensions)
        if dimensions != self.dimensions:
            raise OperatorError(
                f"the model takes {dimensions} of its {self.input_shape[0]} inputs for x",
                allowed=f"{self.dimensions}, the elements of field {self.input_field!r}",
                remedy=f"set the model's conditions to {self.input_shape[0] - self.dimensions}",
            )
        return model

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        return -self.checked(outputs).squeeze(1)

    @torch.no_grad()
    def scores(self, outputs: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        return {"log_likelihood": self.checked(outputs).mean()}


COMPONENT = Density
