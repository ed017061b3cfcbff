"""Classification by the nearest mean of a class in the space of features.

Snell et al., "Prototypical networks for few-shot learning" (2017), eq. 2, on a stream; nearest
mean of exemplars as in Rebuffi et al., "iCaRL" (2017), section 2.2, but of all rows that came:

p(c | f) = softmax over the seen classes of -||f - mean_c||^2 / temperature
loss     = -log p(label | f)

The means are state, not weights: they move in `observe`, after an update, by fresh and
replayed rows alike, with the features as they were before the update; of several updates on a batch
fresh rows count in the last alone, replayed ones, drawn anew for each, in all. Gradients do not
pass into the means. A class that appears for the first time has the mean of its rows in the batch.
Unseen classes have no share. No layer tells the classes apart, so none can prefer the newest.

Outputs are the features and, behind them, the (classes,) logits by the means of that moment,
without gradient: so scores are those before the update, whenever they are read.

Deviations: the paper's means are of a small support set that is drawn anew for every batch, and
get gradients.

Strategies: works with all that know labels only through `losses` and `labels`. `distances`
compares features alone. Strategies that read outputs as logits of classes (ER-ACE) are not
defined, as the first outputs are features. A row's loss depends on others only in the batch in
which a class appears.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from insitu.batch import Batch
from insitu.objectives.class_means import ClassMeans
from insitu.objectives.labelled import (
    UNLABELLED,
    Classes,
    Features,
    Input,
    Labelled,
    Target,
    Unlabelled,
)
from insitu.schema import Schema

Decay = Annotated[
    float,
    Field(
        gt=0.0,
        le=1.0,
        description="share of a class mean that one row of the class leaves of it; 1 is the plain "
        "mean of all rows, right for a frozen model; below 1 means follow a model that learns",
        json_schema_extra={"unit": "ratio"},
    ),
]
Temperature = Annotated[
    float,
    Field(
        gt=0.0,
        description="what similarities are divided by before the softmax",
        json_schema_extra={"unit": "ratio"},
    ),
]


class NearestClassMean(Labelled):
    """Features near the mean of their class and far from those of the others.

    Scores: `accuracy`, by the nearest mean.

    Example:
        >>> schema = Schema.of({"x": ("float32", (1,)), "y": ("int64", ())})
        >>> objective = NearestClassMean(schema, classes=2, features=1)
        >>> batch = Batch.of({"x": torch.tensor([[0.0], [2.0]]), "y": torch.tensor([0, 1])})
        >>> outputs = objective.predict(nn.Identity(), batch)
        >>> objective.losses(outputs, batch).exp()
        tensor([1.0183, 1.0183])
    """

    is_likelihood = True

    def __init__(
        self,
        schema: Schema,
        *,
        input: Input = "x",
        target: Target = "y",
        classes: Classes,
        features: Features = 64,
        temperature: Temperature = 1.0,
        decay: Decay = 0.99,
        unlabelled: Unlabelled = False,
    ) -> None:
        super().__init__(
            schema,
            "nearest_class_mean",
            input=input,
            target=target,
            labels=classes,
            output_shape=(features,),
            unlabelled=unlabelled,
        )
        self.features, self.classes = features, classes
        self.temperature = temperature
        self.class_means = ClassMeans(classes, features, decay=decay)

    @property
    def predicted_shape(self) -> tuple[int, ...]:
        return (self.features + self.classes,)

    def predict(self, model: nn.Module, batch: Batch) -> Tensor:
        features = super().predict(model, batch)
        with torch.no_grad():
            logits = self.class_means.logits(features.float(), self.temperature)
        return torch.cat((features, logits.to(features)), dim=1)

    def distances(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(rows,) mean squared difference of the features."""
        return super().distances(outputs[:, : self.features], targets[:, : self.features])

    def drawn_targets(self, outputs: Tensor, batch: Batch, generator: torch.Generator) -> Batch:
        return self.drawn_labels(self._logits(outputs, self.labels(batch)), batch, generator)

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        labels = self.labels(batch)
        losses = functional.cross_entropy(
            self._logits(outputs, labels), labels, reduction="none", ignore_index=UNLABELLED
        )
        return self.over_labelled(losses, labels)

    def _logits(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """(rows, classes) with the graph, -inf for classes that never came."""
        features = self.checked(outputs)[:, : self.features]
        with torch.no_grad():
            of_batch, rows = self.class_means.means_of(features, labels)
            seen = self.class_means.seen
            means = torch.where(seen.unsqueeze(1), self.class_means.means, of_batch)
        logits = self.class_means.logits(features, self.temperature, means)
        return _only(logits, seen | (rows > 0))

    @torch.no_grad()
    def scores(self, outputs: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        labels = self.labels(batch)
        logits = self.checked(outputs)[:, self.features :]
        self.class_means.to(logits.device)
        logits = _only(logits, self.class_means.seen | self.is_class(labels).any(dim=0))
        return {"accuracy": self.share_of(logits.argmax(dim=1) == labels, labels)}

    def observe(self, outputs: Tensor, batch: Batch, *, last: bool = True) -> None:
        features = outputs[:, : self.features]
        self.class_means.follow(features, self.labels(batch), batch.fresh_rows, last=last)

    def state_dict(self) -> dict[str, Any]:
        return self.class_means.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        own = self.class_means.state_dict()
        fitting = {key: self.fitting(key, state[key], tensor) for key, tensor in own.items()}
        self.class_means.load_state_dict(fitting)


def _only(logits: Tensor, is_open: Tensor) -> Tensor:
    """Logits of the open classes, -inf elsewhere; all of them where none is open."""
    return logits.masked_fill(~(is_open | ~is_open.any()), -math.inf)


COMPONENT = NearestClassMean
