"""Classification among the classes that have appeared so far.

A class is *open* when one of its rows was trained before, or is in the batch at hand; logits
of closed classes are out of softmax and argmax and get a gradient of exactly zero. So this
equals a classifier whose head has the open classes only and is lengthened when one appears.
The head is nevertheless allocated for `classes` from the start: weights, moments, importances
and checkpoints keep their shapes for ever, and a class's first weights are those of its seed,
whenever it appears. What differs from `classify` is that a class which never came is never
pushed down; between classes that came and went it behaves alike.

Deviations: with `label_smoothing` the mass is spread over the open classes.

Strategies: works with all. The loss of a row depends on the others only in the one batch where
a class appears for the first time. Outputs are the logits of all classes; `distances` compares
those of closed classes too, which then hold still.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from insitu.batch import Batch
from insitu.objectives.classify import LabelSmoothing
from insitu.objectives.labelled import UNLABELLED, Classes, Input, Labelled, Target, Unlabelled
from insitu.schema import Schema


class GrowingClassify(Labelled):
    """Cross entropy over the classes seen so far: a classifier that grows as classes appear.

    Scores: `accuracy`, the share of (labelled) rows whose largest open logit is the label's;
    `classes_seen`, the number of classes that are open. Losses and scores do not depend on
    whether `observe` has counted their own batch yet.

    Example:
        >>> schema = Schema.of({"x": ("float32", (3,)), "y": ("int64", ())})
        >>> objective = GrowingClassify(schema, classes=100)
        >>> batch = Batch.of({"x": torch.zeros(2, 3), "y": torch.tensor([7, 9])})
        >>> objective.losses(torch.zeros(2, 100), batch)
        tensor([0.6931, 0.6931])
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
            "growing_classify",
            input=input,
            target=target,
            labels=classes,
            output_shape=(classes,),
            unlabelled=unlabelled,
        )
        self.label_smoothing = label_smoothing
        self._seen = torch.zeros(classes, dtype=torch.bool)

    def open_classes(self, labels: Tensor) -> Tensor:
        """(classes,) bool: seen before, or among these labels; all, where that would be none."""
        is_open = self._seen.to(labels.device) | self.is_class(labels).any(dim=0)
        return is_open | ~is_open.any()

    def drawn_targets(self, outputs: Tensor, batch: Batch, generator: torch.Generator) -> Batch:
        return self.drawn_labels(self._masked(outputs, batch)[0], batch, generator)

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        labels = self.labels(batch)
        logits, is_open = self._masked(outputs, batch)
        losses = functional.cross_entropy(logits, labels, reduction="none", ignore_index=UNLABELLED)
        if self.label_smoothing:
            log_shares = logits.log_softmax(dim=1).masked_fill(~is_open, 0.0)
            evenly = -log_shares.sum(dim=1) / is_open.sum()
            losses = losses.lerp(evenly, self.label_smoothing)
        return self.over_labelled(losses, labels)

    @torch.no_grad()
    def scores(self, outputs: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        labels = self.labels(batch)
        logits, is_open = self._masked(outputs, batch)
        seen = is_open.sum().float() if len(labels) else logits.new_tensor(math.nan)
        return {
            "accuracy": self.share_of(logits.argmax(dim=1) == labels, labels),
            "classes_seen": seen,
        }

    def _masked(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """(rows, classes) logits, -inf where closed, and what is open."""
        is_open = self.open_classes(self.labels(batch))
        return self.checked(outputs).masked_fill(~is_open, -math.inf), is_open

    def observe(self, outputs: Tensor, batch: Batch, *, last: bool = True) -> None:
        """Open the classes that came, in the first of several updates: a set counts nothing."""
        labels = self.labels(batch)
        self._seen = self._seen.to(labels.device) | self.is_class(labels).any(dim=0)

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self._seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._seen = self.fitting("seen", state["seen"], self._seen)


COMPONENT = GrowingClassify
