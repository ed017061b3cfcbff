"""Reconstruction: the model's output is its input again (autoencoders).

Strategies: works with all that do not need classes (`labels` is None: class-balanced memories and
ER-ACE refuse it). Rows are independent; squared and absolute differences are log likelihoods of a
Gaussian and a Laplace distribution, so a true Fisher information is defined.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from insitu.objectives.field_error import Distance
from insitu.objectives.field_objective import FieldObjective
from insitu.objectives.schema_checks import real_field, same_shapes
from insitu.schema import Schema


class Reconstruct(FieldObjective):
    """Distance between the model's output and the field that it was fed.

    `target` names another field of the same shape where the input is a spoiled version of what
    is wanted (denoising, gaps); it then shares the input's statistics.

    Scores: `rmse` (units of the normalised field), `relative_error` (L2, 1 is a constant guess).

    Example:
        >>> import torch
        >>> from insitu.batch import Batch
        >>> objective = Reconstruct(Schema.of({"u": ("float32", (2, 5, 7))}), input="u")
        >>> batch = Batch.of({"u": torch.ones(3, 2, 5, 7)})
        >>> objective.losses(torch.zeros(3, 2, 5, 7), batch)
        tensor([1., 1., 1.])
    """

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


COMPONENT = Reconstruct
