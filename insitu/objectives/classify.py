"""Classification: one integer label a sample, cross entropy on logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from insitu.batch import Batch
from insitu.objectives.base import Headline, Objective
from insitu.objectives.schema_checks import label_field, real_field
from insitu.schema import Schema


class Classify(Objective):
    """Cross entropy between the model's logits and integer labels.

    The model gives one logit a class. Labels are 0 .. classes - 1; others are refused at the
    door by `label_range`, never here (looking would stop the device).

    Scores: `accuracy`, the share of rows whose largest logit is the label's, in [0, 1].

    Example:
        >>> schema = Schema.of({"x": ("uint8", (1, 8, 8)), "y": ("int64", ())})
        >>> objective = Classify(schema, classes=10)
        >>> objective.input_shape, objective.output_shape, objective.label_range
        ((1, 8, 8), (10,), {'y': (0, 9)})
    """

    headline = Headline("accuracy", higher_is_better=True)
    is_likelihood = True

    def __init__(
        self,
        schema: Schema,
        *,
        input: Annotated[str, Field(description="field that the model is fed")] = "x",
        target: Annotated[str, Field(description="field with the integer label")] = "y",
        classes: Annotated[
            int, Field(ge=2, description="number of classes", json_schema_extra={"unit": "classes"})
        ],
        label_smoothing: Annotated[
            float,
            Field(
                ge=0.0,
                lt=1.0,
                description="share of the target's mass that is spread over all classes evenly",
                json_schema_extra={"unit": "ratio"},
            ),
        ] = 0.0,
    ) -> None:
        source = real_field(schema, "classify", "input", input)
        label_field(schema, "classify", "target", target)
        super().__init__(
            input_field=input,
            input_shape=source.shape,
            output_shape=(classes,),
            statistics_of={input: input},
            label_range={target: (0, classes - 1)},
        )
        self.target_field = target
        self.label_smoothing = label_smoothing

    def labels(self, batch: Batch) -> Tensor:
        """(rows,) int64."""
        labels = batch.fields[self.target_field]
        return labels.reshape(labels.shape[0]).to(torch.int64)

    def drawn_targets(self, outputs: Tensor, batch: Batch, generator: torch.Generator) -> Batch:
        shares = self.checked(outputs).detach().softmax(dim=1).cpu()
        drawn = torch.multinomial(shares, 1, generator=generator)
        like = batch.fields[self.target_field]
        return batch.with_fields(
            {**batch.fields, self.target_field: drawn.reshape(like.shape).to(like)}
        )

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        return functional.cross_entropy(
            self.checked(outputs),
            self.labels(batch),
            reduction="none",
            label_smoothing=self.label_smoothing,
        )

    @torch.no_grad()
    def scores(self, outputs: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        hits = self.checked(outputs).argmax(dim=1) == self.labels(batch)
        return {"accuracy": hits.to(torch.float32).mean()}


COMPONENT = Classify
