"""Classification with a head of its own for every task.

The model gives (heads, classes) logits, one head beside the other. A row is judged by the
head of its task alone: the others get a gradient of exactly zero, and predictions are among
the classes of its head. So it equals one linear head a task on shared layers, in one matrix.

The head of a row is the index of its task (in order of first appearance), or the field that
`head` names. Tasks beyond the last head share the last one: task indices are not known at the
door, and losing rows there would be worse. The score `without_head` says how often that was.
With `head`, indices out of range are refused at the door.

With `labels: per_head` labels start at 0 in every task; with `running` they run on over the
heads (head 1 of two classes: 2 and 3), and are taken modulo `classes`. `labels()` always gives
the running number, head * classes + own label.

Strategies: works with all that treat outputs as numbers. Those that read outputs as the logits
of all classes, (rows, classes), are not defined (ER-ACE). Rows are independent; the loss is a
log likelihood. Tasks are needed: do not use it with streams that are cut by detection.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from insitu.batch import Batch, Column
from insitu.objectives.labelled import Heads, Input, Labelled, Target
from insitu.objectives.schema_checks import label_field
from insitu.schema import Schema


class MultiHead(Labelled):
    """Task-incremental classification: who asks says which task it is, and its head answers.

    Scores: `accuracy`, the share of rows whose label has the largest logit of its head;
    `without_head`, the share of rows of tasks beyond the last head.

    Example:
        >>> schema = Schema.of({"x": ("float32", (1,)), "y": ("int64", ())})
        >>> objective = MultiHead(schema, heads=2, classes=2)
        >>> batch = Batch.of({"x": torch.zeros(1, 1), "y": torch.tensor([1])}, task=1)
        >>> logits = torch.tensor([[[9.0, 0.0], [0.0, 9.0]]])
        >>> objective.scores(logits, batch)["accuracy"], objective.labels(batch)
        (tensor(1.), tensor([3]))
    """

    is_likelihood = True

    def __init__(
        self,
        schema: Schema,
        *,
        input: Input = "x",
        target: Target = "y",
        heads: Heads,
        classes: Annotated[
            int,
            Field(ge=2, description="classes of each head", json_schema_extra={"unit": "classes"}),
        ],
        labels: Annotated[
            Literal["per_head", "running"],
            Field(description="labels start at 0 in every head, or run on over the heads"),
        ] = "per_head",
        head: Annotated[
            str | None,
            Field(
                description="integer field with the head of a row; left out: the index of its task"
            ),
        ] = None,
    ) -> None:
        if head is not None:
            label_field(schema, "multi_head", "head", head)
        super().__init__(
            schema,
            "multi_head",
            input=input,
            target=target,
            labels=classes if labels == "per_head" else heads * classes,
            output_shape=(heads, classes),
            further_range=None if head is None else {head: (0, heads - 1)},
        )
        self.heads, self.classes = heads, classes
        self.head_field = head

    @property
    def tasks_are_given(self) -> bool:
        return True

    def head_of(self, batch: Batch) -> Tensor:
        """(rows,) int64: the head of every row, on the device of the batch."""
        return self._asked_for(batch).clamp(max=self.heads - 1)

    def _asked_for(self, batch: Batch) -> Tensor:
        if self.head_field is not None:
            heads = batch.fields[self.head_field]
            return heads.reshape(heads.shape[0]).to(torch.int64)
        device = batch.fields[self.target_field].device
        return batch.column(Column.TASK).to(device, non_blocking=True)

    def _own_labels(self, batch: Batch) -> Tensor:
        """(rows,) label within the head."""
        return super().labels(batch) % self.classes

    def labels(self, batch: Batch) -> Tensor:
        """(rows,) int64: head * classes + label within the head."""
        return self.head_of(batch) * self.classes + self._own_labels(batch)

    def logits(self, outputs: Tensor, batch: Batch) -> Tensor:
        """(rows, classes) logits of each row's own head."""
        index = self.head_of(batch).view(-1, 1, 1).expand(-1, 1, self.classes)
        return self.checked(outputs).gather(1, index).squeeze(1)

    def drawn_targets(self, outputs: Tensor, batch: Batch, generator: torch.Generator) -> Batch:
        return self.drawn_labels(self.logits(outputs, batch), batch, generator)

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        return functional.cross_entropy(
            self.logits(outputs, batch), self._own_labels(batch), reduction="none"
        )

    @torch.no_grad()
    def scores(self, outputs: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        hits = self.logits(outputs, batch).argmax(dim=1) == self._own_labels(batch)
        beyond = self._asked_for(batch) >= self.heads
        return {"accuracy": hits.float().mean(), "without_head": beyond.float().mean()}


COMPONENT = MultiHead
