"""Regression: parameters -> a field of any shape (surrogates of a solver).

Strategies: works with all that do not need classes (`labels` is None: class-balanced memories and
ER-ACE refuse it). Rows are independent; squared and absolute differences are log likelihoods of a
Gaussian and a Laplace distribution, so a true Fisher information is defined.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from insitu.objectives.field_error import Distance
from insitu.objectives.field_objective import FieldObjective
from insitu.objectives.schema_checks import real_field
from insitu.schema import Schema


class Regress(FieldObjective):
    """Distance between the model's output and a real-valued target of any shape.

    Input and target are different quantities and keep statistics of their own.

    Scores: `rmse` (units of the normalised target), `relative_error` (L2, 1 is a constant guess).

    Example:
        >>> schema = Schema.of({"parameters": ("float64", (3,)), "u": ("float32", (16, 16))})
        >>> objective = Regress(schema, input="parameters", target="u")
        >>> objective.input_shape, objective.output_shape
        ((3,), (16, 16))
    """

    def __init__(
        self,
        schema: Schema,
        *,
        input: Annotated[str, Field(description="field that the model is fed")] = "x",
        target: Annotated[str, Field(description="field to predict, of any shape")] = "y",
        loss: Annotated[
            Distance, Field(description="mean squared (mse) or mean absolute (l1) difference")
        ] = "mse",
    ) -> None:
        source = real_field(schema, "regress", "input", input)
        wanted = real_field(schema, "regress", "target", target)
        super().__init__(
            input_field=input,
            input_shape=source.shape,
            output_shape=wanted.shape,
            statistics_of={input: input, target: target},
        )
        self.target_field = target
        self.loss = loss


COMPONENT = Regress
