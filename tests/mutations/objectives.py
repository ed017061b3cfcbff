"""Objectives and models without what makes them what they are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from insitu.objectives.ridge import Ridge
from mutations.base import Mutation, constantly

_LABELS = "tests/test_objectives_labels.py"
_OBJECTIVES = "tests/test_objectives.py"
_DENSITY = "tests/test_objectives_density.py"
_IMAGES = "tests/test_models_images.py"


def _all_open(self: Any, labels: Tensor) -> Tensor:
    return torch.ones_like(self._seen)


def _unscaled(self: Any, losses: Tensor, labels: Tensor) -> Tensor:
    return torch.where(labels >= 0, losses, 0.0) if self.unlabelled else losses


def _first_head(self: Any, batch: Any) -> Tensor:
    return torch.zeros_like(self._asked_for(batch))


def _no_contrast(projections: Tensor, labels: Tensor, temperature: float) -> Tensor:
    return projections.sum(dim=(1, 2)) * 0.0


def _no_volume(b: Any, along: Tensor) -> Tensor:
    return torch.zeros_like(along)


def _first_atoms(whitened: Tensor, count: int, iterations: int, generator: Any) -> Tensor:
    return torch.nn.functional.normalize(whitened[:count], dim=1)


def _every_time(self: Any, features: Tensor, labels: Tensor, *_: Any, **__: Any) -> None:
    self.count(features, labels)


_ridge_observe = Ridge.observe


def _ridge_every_time(self: Any, outputs: Tensor, batch: Any, **_: Any) -> None:
    _ridge_observe(self, outputs, batch)


def _untouched(self: Any, features: Tensor, *_: Any) -> None:
    self._rows += len(features)


MUTATIONS = {
    "classify: no scale for rows without label": Mutation(
        "insitu.objectives.classify:Classify.over_labelled", _unscaled, _LABELS
    ),
    "growing_classify: every class is open": Mutation(
        "insitu.objectives.growing_classify:GrowingClassify.open_classes", _all_open, _LABELS
    ),
    "growing_classify: no class is remembered": Mutation(
        "insitu.objectives.growing_classify:GrowingClassify.observe", constantly(None), _LABELS
    ),
    "multi_head: the first head answers for all": Mutation(
        "insitu.objectives.multi_head:MultiHead.head_of", _first_head, _LABELS
    ),
    "nearest_class_mean: the means never move": Mutation(
        "insitu.objectives.nearest_class_mean:NearestClassMean.observe", constantly(None), _LABELS
    ),
    "class means: fresh rows counted in every update": Mutation(
        "insitu.objectives.class_means:ClassMeans.follow", _every_time, _OBJECTIVES
    ),
    "ridge: rows summed in every update": Mutation(
        "insitu.objectives.ridge:Ridge.observe", _ridge_every_time, _OBJECTIVES
    ),
    "contrastive: no contrast": Mutation(
        "insitu.objectives.contrastive:contrastive_losses", _no_contrast, _LABELS
    ),
    "ridge: nothing is summed": Mutation(
        "insitu.objectives.ridge:LeastSquares.count", _untouched, _LABELS
    ),
    "density: the sign of the loss": Mutation(
        "insitu.objectives.density:Density.losses",
        lambda self, outputs, batch: self.checked(outputs).squeeze(1),
        _DENSITY,
    ),
    "conditional_flow: volume is not counted": Mutation(
        "insitu.models.spline:_log_slope", _no_volume, _DENSITY
    ),
    "random_patches: no whitening": Mutation(
        "insitu.models.patch_dictionary:whitening",
        lambda patches, _: (torch.zeros(patches.shape[1]), torch.eye(patches.shape[1])),
        _IMAGES,
    ),
    "random_patches: the first patches are the atoms": Mutation(
        "insitu.models.patch_dictionary:atoms", _first_atoms, _IMAGES
    ),
}
