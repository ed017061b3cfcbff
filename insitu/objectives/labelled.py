"""What objectives on integer labels share: where the label is, and rows that have none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from insitu.batch import Batch
from insitu.errors import OperatorError
from insitu.objectives.base import Headline, Objective
from insitu.objectives.schema_checks import label_field, real_field
from insitu.schema import Schema

#: the label of a row that has none
UNLABELLED = -1

Input = Annotated[str, Field(description="field that the model is fed")]
Target = Annotated[str, Field(description="field with the integer label")]
Classes = Annotated[
    int, Field(ge=2, description="number of classes", json_schema_extra={"unit": "classes"})
]
Heads = Annotated[
    int, Field(ge=1, description="number of heads", json_schema_extra={"unit": "heads"})
]
Unlabelled = Annotated[
    bool,
    Field(
        description="let rows in whose label is -1: they have none, train nothing and score none"
    ),
]
Features = Annotated[
    int,
    Field(
        ge=1,
        description="length of the feature vector that the model gives",
        json_schema_extra={"unit": "features"},
    ),
]


class Labelled(Objective):
    """Base of objectives with one integer label a row.

    Args:
        name: of the component, for errors.
        labels: how many different labels there are; they are 0 .. labels - 1.
        unlabelled: whether -1, for no label, is allowed too.
    """

    headline = Headline("accuracy", higher_is_better=True)

    def __init__(
        self,
        schema: Schema,
        name: str,
        *,
        input: str,
        target: str,
        labels: int,
        output_shape: tuple[int, ...],
        unlabelled: bool = False,
        further_range: Mapping[str, tuple[int, int]] | None = None,
    ) -> None:
        source = real_field(schema, name, "input", input)
        label = label_field(schema, name, "target", target)
        if unlabelled and not label.dtype.startswith("int"):
            raise OperatorError(
                f"objective {name}: unlabelled is set, and target {target!r} is {label.dtype}",
                allowed="a signed integer dtype, which can hold the -1 of a row without label",
            )
        lowest = UNLABELLED if unlabelled else 0
        super().__init__(
            input_field=input,
            input_shape=source.shape,
            output_shape=output_shape,
            statistics_of={input: input},
            label_range={target: (lowest, labels - 1), **(further_range or {})},
        )
        self.target_field = target
        self.unlabelled = unlabelled
        self._numbers = torch.arange(labels)

    def labels(self, batch: Batch) -> Tensor:
        """(rows,) int64; -1 where a row has no label."""
        labels = batch.fields[self.target_field]
        return labels.reshape(labels.shape[0]).to(torch.int64)

    def is_class(self, labels: Tensor) -> Tensor:
        """(rows, classes) bool: each row's own class; a row without label has none.

        A comparison, not `one_hot`, which makes a GPU wait to check the range.
        """
        if self._numbers.device != labels.device:
            self._numbers = self._numbers.to(labels.device)
        return labels.unsqueeze(1) == self._numbers

    def over_labelled(self, losses: Tensor, labels: Tensor) -> Tensor:
        """Losses that are 0 in rows without label, scaled so that the mean over all rows is that
        over the labelled ones; 0 where there are none."""
        if not self.unlabelled:
            return losses
        has_label = labels != UNLABELLED
        scale = labels.shape[0] / has_label.sum().clamp_min(1)
        return torch.where(has_label, losses, 0.0) * scale

    def share_of(self, hits: Tensor, labels: Tensor) -> Tensor:
        """The share of the labelled rows in which `hits` holds: 0-dim, NaN without such rows."""
        if not self.unlabelled:
            return hits.to(torch.float32).mean()
        has_label = labels != UNLABELLED
        return (hits & has_label).sum() / has_label.sum()

    def drawn_labels(self, logits: Tensor, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch with every label drawn from the softmax of (rows, classes) logits."""
        shares = logits.detach().float().softmax(dim=1).cpu()
        drawn = torch.multinomial(shares, 1, generator=generator)
        return self.with_labels(batch, drawn)

    def with_labels(self, batch: Batch, labels: Tensor) -> Batch:
        like = batch.fields[self.target_field]
        return batch.with_fields(
            {**batch.fields, self.target_field: labels.reshape(like.shape).to(like)}
        )
