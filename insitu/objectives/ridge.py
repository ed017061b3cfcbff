"""Analytic classification: ridge regression on features, by sums that no order can change.

Zhuang et al., "ACIL: Analytic class-incremental learning with absolute memorization and privacy
protection" (2022); McDonnell et al., "RanPAC: Random projections and pre-trained models for
continual learning" (2023), section 3; after the streaming solutions of Hayes and Kanan, "Lifelong
machine learning with deep streaming linear discriminant analysis" (2020). With phi the features of
a row and a 1 behind them, and y its one-hot label,

    G <- G + sum phi phi^T,     C <- C + sum phi y^T              observe: fresh rows, once each
    W = (G + l I)^-1 C,         l = regularisation * trace(G) / size
    prediction: the class with the largest W^T phi

G and C are sums, so W after the whole stream is that of one joint fit on all of it, in whatever
order it came: nothing is forgotten, and nothing is stored of a sample. That holds for a frozen
model (`random_patches`, a pre-trained network). `expand` puts fixed random features
relu(f R / sqrt(size)) behind the model, as RanPAC does, which make a linear head almost as strong
as a kernel machine.

W is solved by Cholesky, in float64, when somebody evaluates and rows came since; while training
only each time the rows have grown by `refit_ratio`, so the prequential accuracy is that of a
slightly older fit, which never saw the row. The sums are float64 by default; with
float32 they cost half, and equal the joint fit to about 1e-4.

Beside it a linear head is trained by the optimizer on the same features, scaled to length 1: its
cross entropy is the loss that is shown and its accuracy is `accuracy_head`, so drift detectors,
strategies and reports have something to look at. With `train_features` its gradient also trains
the model: then G holds features of different ages, and the exactness is gone.

Deviations: l is relative to the mean square of a feature, so one value serves any scale; RanPAC
chooses it by a validation split. ACIL updates the inverse of G by the Woodbury identity, which
costs as much a step and loses digits at each. With `updates_per_batch` above 1 a row is
counted in the last update on it, so once. Rows whose features are all zero (a model that has not
made up its features yet) and rows without label are left out.

Costs: size^2 numbers (of 8 bytes) on the device and in checkpoints: 0.33 GB for 6,400 features;
rows size^2 floating-point operations a step; a solve of size^3 / 3.

Strategies: those that change the gradient of the head work, but the answers are W's, on which no
strategy has a say, and which needs none. Outputs are head logits, W's logits and features in one
vector. Rows are independent; the loss is a log likelihood; `distances` compares head logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from insitu.batch import Batch
from insitu.objectives.labelled import (
    UNLABELLED,
    Classes,
    Features,
    Input,
    Labelled,
    Target,
    Unlabelled,
)
from insitu.objectives.least_squares import LeastSquares
from insitu.schema import Schema


class RidgeNetwork(nn.Module):
    """Inputs -> (logits of the trained head, features), the features expanded where wanted."""

    projection: Tensor | None

    def __init__(
        self, model: nn.Module, features: int, expand: int, classes: int, train_features: bool
    ) -> None:
        super().__init__()
        self.model = model
        size = expand or features
        self.register_buffer(
            "projection", torch.randn(features, size) / features**0.5 if expand else None
        )
        self.head = nn.Linear(size, classes)
        self._train_features = train_features
        if not train_features:
            model.requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.model(inputs)
        if self.projection is not None:
            features = functional.relu(features @ self.projection)
        logits = self.head(functional.normalize(features, dim=1))
        return torch.cat((logits, features), dim=1)


class Ridge(Labelled):
    """Least squares from features to one-hot labels, exact on everything that ever came.

    Scores: `accuracy`, by ridge regression; `accuracy_head`, by the head that the optimizer trains.

    Example:
        >>> schema = Schema.of({"x": ("float32", (4,)), "y": ("int64", ())})
        >>> objective = Ridge(schema, classes=2, features=4)
        >>> network = objective.network(nn.Identity())
        >>> x = torch.randn(100, 4)
        >>> batch = Batch.of({"x": x, "y": (x[:, 0] > 0).long()})
        >>> objective.observe(objective.predict(network, batch), batch)
        >>> outputs = objective.predict(network.eval(), batch)
        >>> objective.scores(outputs, batch)["accuracy"].item() > 0.9
        True
    """

    is_likelihood = True

    def __init__(
        self,
        schema: Schema,
        *,
        input: Input = "x",
        target: Target = "y",
        classes: Classes,
        features: Features,
        expand: Annotated[
            int,
            Field(
                ge=0,
                description="random features made of the model's; 0: the model's own are taken",
                json_schema_extra={"unit": "features"},
            ),
        ] = 0,
        regularisation: Annotated[
            float,
            Field(
                gt=0.0,
                description="pull of the weights to zero, relative to the mean square of a feature "
                "summed over the rows",
                json_schema_extra={"unit": "ratio"},
            ),
        ] = 1e-3,
        train_features: Annotated[
            bool, Field(description="let the head's gradient train the model")
        ] = False,
        refit_ratio: Annotated[
            float,
            Field(
                ge=1.01,
                description="growth of the number of rows at which training solves again",
                json_schema_extra={"unit": "ratio"},
            ),
        ] = 1.5,
        precision: Annotated[
            Literal["float64", "float32"], Field(description="of the sums G and C")
        ] = "float64",
        unlabelled: Unlabelled = False,
    ) -> None:
        super().__init__(
            schema,
            "ridge",
            input=input,
            target=target,
            labels=classes,
            output_shape=(features,),
            unlabelled=unlabelled,
        )
        self.classes, self.features = classes, features
        self.size = expand or features
        self._expand, self._train_features = expand, train_features
        self.fit = LeastSquares(
            self.size,
            classes,
            regularisation=regularisation,
            dtype=getattr(torch, precision),
            refit_ratio=refit_ratio,
        )

    @property
    def predicted_shape(self) -> tuple[int, ...]:
        """Logits of the head, of the fit, features."""
        return (2 * self.classes + self.size,)

    def network(self, model: nn.Module) -> nn.Module:
        return RidgeNetwork(model, self.features, self._expand, self.classes, self._train_features)

    def predict(self, model: nn.Module, batch: Batch) -> Tensor:
        outputs = super().predict(model, batch).float()
        logits, features = torch.split(outputs, [self.classes, self.size], dim=1)
        with torch.no_grad(), torch.autocast(outputs.device.type, enabled=False):
            training = getattr(model, "_orig_mod", model).training
            fitted = (self.fit.predict_lately if training else self.fit.predict)(features)
        return torch.cat((logits, fitted, features), dim=1)

    def distances(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(rows,) mean squared difference of the head's logits."""
        return super().distances(outputs[:, : self.classes], targets[:, : self.classes])

    def drawn_targets(self, outputs: Tensor, batch: Batch, generator: torch.Generator) -> Batch:
        return self.drawn_labels(self.checked(outputs)[:, : self.classes], batch, generator)

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        labels = self.labels(batch)
        losses = functional.cross_entropy(
            self.checked(outputs)[:, : self.classes],
            labels,
            reduction="none",
            ignore_index=UNLABELLED,
        )
        return self.over_labelled(losses, labels)

    @torch.no_grad()
    def scores(self, outputs: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        labels = self.labels(batch)
        sizes = [self.classes, self.classes, self.size]
        head, fitted, _ = torch.split(self.checked(outputs), sizes, dim=1)
        return {
            "accuracy": self.share_of(fitted.argmax(dim=1) == labels, labels),
            "accuracy_head": self.share_of(head.argmax(dim=1) == labels, labels),
        }

    @torch.no_grad()
    def observe(self, outputs: Tensor, batch: Batch, *, last: bool = True) -> None:
        """Count the fresh rows, once; replayed ones were counted when they were fresh."""
        if not last:
            return
        features = outputs[: batch.fresh_rows, -self.size :]
        targets = self.is_class(self.labels(batch.fresh()))
        counted = targets.any(dim=1) & (features != 0).any(dim=1)
        self.fit.count(features * counted.unsqueeze(1), targets & counted.unsqueeze(1), counted)

    def state_dict(self) -> dict[str, Any]:
        return self.fit.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        for key, own in self.fit.state_dict().items():
            if isinstance(own, Tensor):
                self.fitting(key, state[key], own)
        self.fit.load_state_dict(state)


COMPONENT = Ridge
