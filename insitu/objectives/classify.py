"""Classification: one integer label a sample, cross entropy on logits.

The model gives one logit a class. Labels are 0 .. classes - 1; others are refused at the
door by `label_range`, never here (looking would stop the device). With `unlabelled` a label
of -1 says that the row has none: its loss is 0, and the others are scaled by rows / labelled
rows, so that the mean over a batch is that over its labelled rows. It may still be replayed
and distilled, and gives gradients where a strategy draws its label from the model.

Strategies: works with all of them. Rows are independent of one another, up to that common
factor; the loss is a log likelihood.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from insitu.batch import Batch
from insitu.objectives.labelled import UNLABELLED, Classes, Input, Labelled, Target, Unlabelled
from insitu.schema import Schema

LabelSmoothing = Annotated[
    float,
    Field(
        ge=0.0,
        lt=1.0,
        description="share of the target's mass that is spread over all classes evenly",
        json_schema_extra={"unit": "ratio"},
    ),
]


class Classify(Labelled):
    """Cross entropy between the model's logits and integer labels.

    Scores: `accuracy`, the share of (labelled) rows whose largest logit is the label's, in [0, 1].

    Example:
        >>> schema = Schema.of({"x": ("uint8", (1, 8, 8)), "y": ("int64", ())})
        >>> objective = Classify(schema, classes=10)
        >>> objective.input_shape, objective.output_shape, objective.label_range
        ((1, 8, 8), (10,), {'y': (0, 9)})
        >>> objective = Classify(schema, classes=10, unlabelled=True)
        >>> batch = Batch.of({"x": torch.zeros(2, 1, 8, 8), "y": torch.tensor([3, -1])})
        >>> objective.losses(torch.zeros(2, 10), batch)
        tensor([4.6052, 0.0000])
    """

    is_likelihood = True

    def __init__(
        self,
        schema: Schema,
        *,
        input: Input = "x",
        target: Target = "y",
        classes: Classes,
        label_smoothing: LabelSmoothing = 0.0,
        unlabelled: Unlabelled = False,
    ) -> None:
        super().__init__(
            schema,
            "classify",
            input=input,
            target=target,
            labels=classes,
            output_shape=(classes,),
            unlabelled=unlabelled,
        )
        self.label_smoothing = label_smoothing

    def drawn_targets(self, outputs: Tensor, batch: Batch, generator: torch.Generator) -> Batch:
        return self.drawn_labels(self.checked(outputs), batch, generator)

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        labels = self.labels(batch)
        losses = functional.cross_entropy(
            self.checked(outputs),
            labels,
            reduction="none",
            ignore_index=UNLABELLED,
            label_smoothing=self.label_smoothing,
        )
        return self.over_labelled(losses, labels)

    @torch.no_grad()
    def scores(self, outputs: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        labels = self.labels(batch)
        return {"accuracy": self.share_of(self.checked(outputs).argmax(dim=1) == labels, labels)}


COMPONENT = Classify
