"""Supervised contrastive learning with a projection head, and a classification head beside it.

Khosla et al., "Supervised contrastive learning" (2020), eq. 2 (L_out). With z the projections,
of length 1, P(i) the other rows of row i's class and A(i) all other rows of the batch,

    share(i, p)   = exp(z_i z_p / t) / sum_{a in A(i)} exp(z_i z_a / t)
    contrastive_i = -1/|P(i)| sum_{p in P(i)} log share(i, p)
    loss_i        = contrastive_i + head_weight * cross_entropy(head(f_i), y_i)

The model gives the features f; two layers project them, a linear head classifies them. With
`cut_gradient` the head's gradient does not reach the features, as in the paper, where the head is
trained afterwards: the representation is then shaped by similarity alone, in which no class weights
can drift towards the newest classes. Without it both shape the features.

Beside the head, the nearest mean of a class in the space of (unit length) features answers, which
forgets less; the means are state and move in `observe`: of several updates on a batch fresh rows
count in the last alone, replayed ones, drawn anew for each, in all.

Positives are the other rows of the class in the batch, fresh and remembered. With `views: mirrored`
the mirror image of every row (its last axis reversed) is a second view, as in the paper, so that
every row has a positive; the mean over its two anchors is its loss. Without any positive a row has
a contrastive loss of 0.

Deviations: the second view is no random augmentation, since an objective draws nothing: a step
stays a function of batch and weights. Memories that augment what they replay vary the views.

Strategies: the loss of a row depends on the others (`row_by_row` is False), so a gradient per
sample is not defined: exact Fisher informations, GSS and their like refuse it. It is no likelihood.
Outputs are logits, projections and features in one vector: strategies that read outputs as
(rows, classes) logits do not fit. `distances` compares head logits and projections. There are
labels. The first figure to look at is `accuracy_nearest_mean`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

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
from insitu.objectives.nearest_class_mean import Decay, Temperature
from insitu.schema import Schema

#: in place of minus infinity, whose softmax alone is no number
_NEVER = -1e9


class ContrastiveNetwork(nn.Module):
    """A model and two heads on its features: inputs -> (logits, projections, features) in a row."""

    def __init__(
        self,
        model: nn.Module,
        features: int,
        classes: int,
        projection: int,
        cut_gradient: bool,
    ) -> None:
        super().__init__()
        self.model = model
        self.projector = nn.Sequential(
            nn.Linear(features, features), nn.ReLU(), nn.Linear(features, projection)
        )
        self.head = nn.Linear(features, classes)
        self._cut_gradient = cut_gradient

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.model(inputs)
        projections = functional.normalize(self.projector(features).float(), dim=1)
        logits = self.head(features.detach() if self._cut_gradient else features)
        return torch.cat((logits.float(), projections, features.float()), dim=1)


class Contrastive(Labelled):
    """Rows of a class close together, rows of others apart, and a head that names the class.

    Scores: `accuracy`, by the head; `accuracy_nearest_mean`, by the nearest class mean.

    Example:
        >>> schema = Schema.of({"x": ("float32", (4,)), "y": ("int64", ())})
        >>> objective = Contrastive(schema, classes=3, features=8)
        >>> network = objective.network(nn.Linear(4, 8))
        >>> batch = Batch.of({"x": torch.randn(6, 4), "y": torch.arange(6) % 3})
        >>> objective.losses(objective.predict(network, batch), batch).shape
        torch.Size([6])
    """

    row_by_row = False

    def __init__(
        self,
        schema: Schema,
        *,
        input: Input = "x",
        target: Target = "y",
        classes: Classes,
        features: Features = 128,
        projection: Annotated[
            int,
            Field(
                ge=2,
                description="length of the projections that are compared",
                json_schema_extra={"unit": "features"},
            ),
        ] = 64,
        temperature: Temperature = 0.1,
        views: Annotated[
            Literal["single", "mirrored"],
            Field(description="one view of each row, or its mirror image (last axis) too"),
        ] = "single",
        head_weight: Annotated[
            float,
            Field(
                ge=0.0,
                description="weight of the head's cross entropy beside the contrastive loss",
                json_schema_extra={"unit": "ratio"},
            ),
        ] = 1.0,
        cut_gradient: Annotated[
            bool, Field(description="keep the head's gradient out of the features")
        ] = True,
        decay: Decay = 0.99,
        unlabelled: Unlabelled = False,
    ) -> None:
        super().__init__(
            schema,
            "contrastive",
            input=input,
            target=target,
            labels=classes,
            output_shape=(features,),
            unlabelled=unlabelled,
        )
        self.classes, self.features, self.projection = classes, features, projection
        self.temperature = temperature
        self.head_weight = head_weight
        self.views = 1 if views == "single" else 2
        self._cut_gradient = cut_gradient
        self.class_means = ClassMeans(classes, features, decay=decay)

    @property
    def predicted_shape(self) -> tuple[int, ...]:
        """Logits, logits by the means, projections of each view, features."""
        return (2 * self.classes + self.views * self.projection + self.features,)

    def network(self, model: nn.Module) -> nn.Module:
        return ContrastiveNetwork(
            model, self.features, self.classes, self.projection, self._cut_gradient
        )

    def predict(self, model: nn.Module, batch: Batch) -> Tensor:
        inputs = self.inputs(batch)
        if self.views == 2:
            inputs = torch.cat((inputs, inputs.flip(-1)))
        views = torch.tensor_split(model(inputs), self.views)
        logits, projections, features = torch.split(
            views[0], [self.classes, self.projection, self.features], dim=1
        )
        others = [v[:, self.classes : self.classes + self.projection] for v in views[1:]]
        with torch.no_grad():
            by_means = self.class_means.logits(functional.normalize(features, dim=1), 1.0)
        return torch.cat((logits, by_means, projections, *others, features), dim=1)

    def _parts(self, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits, logits by the means, (rows, views, projection), features."""
        sizes = [self.classes, self.classes, self.views * self.projection, self.features]
        logits, by_means, projections, features = torch.split(self.checked(outputs), sizes, dim=1)
        by_view = projections.reshape(len(projections), self.views, self.projection)
        return logits, by_means, by_view, features

    def distances(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(rows,) mean squared difference of head logits and projections."""
        (logits, _, own, _), (wanted, _, theirs, _) = self._parts(outputs), self._parts(targets)
        return super().distances(
            torch.cat((logits, own.flatten(1)), dim=1),
            torch.cat((wanted, theirs.flatten(1)), dim=1),
        )

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        labels = self.labels(batch)
        logits, _, projections, _ = self._parts(outputs)
        contrasts = contrastive_losses(projections, labels, self.temperature)
        entropies = functional.cross_entropy(
            logits, labels, reduction="none", ignore_index=UNLABELLED
        )
        return self.over_labelled(contrasts + self.head_weight * entropies, labels)

    @torch.no_grad()
    def scores(self, outputs: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        labels = self.labels(batch)
        logits, by_means, _, _ = self._parts(outputs)
        return {
            "accuracy": self.share_of(logits.argmax(dim=1) == labels, labels),
            "accuracy_nearest_mean": self.share_of(by_means.argmax(dim=1) == labels, labels),
        }

    def observe(self, outputs: Tensor, batch: Batch, *, last: bool = True) -> None:
        features = functional.normalize(outputs[:, -self.features :].float(), dim=1)
        self.class_means.follow(features, self.labels(batch), batch.fresh_rows, last=last)

    def state_dict(self) -> dict[str, Any]:
        return self.class_means.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        own = self.class_means.state_dict()
        fitting = {key: self.fitting(key, state[key], tensor) for key, tensor in own.items()}
        self.class_means.load_state_dict(fitting)


def contrastive_losses(projections: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """(rows,) mean over the views of a row of its loss as an anchor, see the module.

    Args:
        projections: (rows, views, length), of length 1.
        labels: (rows,); rows labelled -1 are negatives to all but their own other views.
    """
    rows, views, _ = projections.shape
    anchors = projections.transpose(0, 1).flatten(0, 1)
    row = torch.arange(rows, device=labels.device).repeat(views)
    label = labels.repeat(views)
    itself = torch.eye(rows * views, dtype=torch.bool, device=labels.device)
    same_class = (label.unsqueeze(1) == label) & (label != UNLABELLED).unsqueeze(1)
    positive = (same_class | (row.unsqueeze(1) == row)) & ~itself
    similarities = (anchors @ anchors.T / temperature).masked_fill(itself, _NEVER)
    log_shares = similarities.log_softmax(dim=1).masked_fill(~positive, 0.0)
    losses = -log_shares.sum(dim=1) / positive.sum(dim=1).clamp_min(1)
    return losses.view(views, rows).mean(dim=0)


COMPONENT = Contrastive
