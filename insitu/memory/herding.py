"""Herding: of every class the samples whose mean is nearest to the mean of the class.

Rebuffi et al., "iCaRL: Incremental Classifier and Representation Learning", CVPR 2017, algorithms 4
and 5, with features phi(x) of unit length and their running mean mu of the class. A stream shows a
sample once, so the choice is made one sample at a time: with m exemplars of sum S and a new sample,
the one of all m + 1 goes without which the mean of the rest is nearest to mu,

    argmin_j |(S - phi_j) / m - mu|  =  argmin_j |phi_j - (S - m mu)|,   S with the new one

and where a class has to shrink, the same with one exemplar less.

Deviations: features are the model's outputs (a model has no layer that is known to be its features)
at the moment at which a sample came, in evaluation mode; iCaRL computes all of them anew at the end
of a task, which needs all samples of it. So that the mean follows a model that learns, it counts
about the last `mean_samples` samples. Quotas are those of `insitu.memory.shared_quota`.

Costs one more forward pass of the fresh rows, on a GPU the wait for it, and a look at all exemplars
of the class for every row: use it for small memories. Rows without a label carry some number too,
-1 by custom: they are a class like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch.nn import functional

from insitu.batch import Batch
from insitu.criterion import Criterion
from insitu.evaluation import evaluation_mode
from insitu.memory.groups import LabelOption, MostClassesOption, loaded_members, saved_members
from insitu.memory.shared_quota import SharedQuota
from insitu.sampling import Indices

_Features = npt.NDArray[np.float32]


class Herding(SharedQuota):
    """Remembers samples that together stand for the mean of their class.

    Args:
        criterion: gives the model's outputs for raw rows.
    """

    def __init__(
        self,
        capacity_samples: int,
        device: torch.device,
        generator: torch.Generator,
        criterion: Criterion,
        *,
        label: LabelOption = "y",
        most_classes: MostClassesOption = 10_000,
        mean_samples: Annotated[
            int,
            Field(
                ge=1,
                description="newest samples of a class that its mean feature is about the mean of",
                json_schema_extra={"unit": "samples"},
            ),
        ] = 1000,
    ) -> None:
        super().__init__(capacity_samples, device, generator, label, most_classes)
        self._criterion = criterion
        self._mean_samples = mean_samples
        self._members: list[list[int]] = []  # class -> its slots
        self._offered: list[int] = []
        self._means: list[_Features] = []
        self._features: _Features = np.zeros((0, 0), np.float32)  # one row a slot
        self._fresh: _Features = self._features  # of the batch that is being placed

    def _place(self, batch: Batch, rows: Indices) -> tuple[Indices, Indices]:
        self._fresh = self._features_of(batch)
        if len(self._features) == 0:
            shape = (self.capacity_samples, self._fresh.shape[1])
            self._features = np.zeros(shape, np.float32)
        return super()._place(batch, rows)

    @torch.no_grad()
    def _features_of(self, batch: Batch) -> _Features:
        """(rows, features) of unit length."""
        with evaluation_mode(self._criterion.module):
            outputs = self._criterion.outputs(self._criterion.normalised(batch))
        unit = functional.normalize(outputs.to(torch.float32).flatten(1), dim=1)
        features: _Features = unit.cpu().numpy()
        return features

    def _place_one(self, number: int, row: int) -> int:
        while len(self._members) <= number:
            self._members.append([])
            self._offered.append(0)
            self._means.append(np.zeros(self._features.shape[1], np.float32))
        self._offered[number] += 1
        share = 1 / min(self._offered[number], self._mean_samples)
        self._means[number] += np.float32(share) * (self._fresh[row] - self._means[number])
        return super()._place_one(number, row)

    def _append(self, number: int, slot: int, row: int) -> None:
        self._members[number].append(slot)
        self._features[slot] = self._fresh[row]

    def _give_up(self, number: int) -> int:
        members = self._members[number]
        return members.pop(_least_needed(self._features[members], self._means[number]))

    def _replace_own(self, number: int, row: int) -> int:
        members = self._members[number]
        with_new = np.concatenate((self._features[members], self._fresh[row : row + 1]))
        place = _least_needed(with_new, self._means[number])
        if place == len(members):
            return -1
        slot = members[place]
        self._features[slot] = self._fresh[row]
        return slot

    def _policy_state(self) -> dict[str, Any]:
        classes = len(self._groups)
        means = np.stack(self._means[:classes]) if self._means else self._features[:0]
        return {
            **super()._policy_state(),
            "slots": saved_members(self._members[:classes]),
            "offered": torch.tensor(self._offered[:classes], dtype=torch.int64),
            "means": torch.from_numpy(means),
            "features": torch.from_numpy(self._features[: len(self)]),
        }

    def _load_policy_state(self, state: Mapping[str, Any]) -> None:
        super()._load_policy_state(state)
        self._members = loaded_members(state["slots"], self._groups.sizes[: len(self._groups)])
        self._offered = state["offered"].tolist()
        self._means = list(np.array(state["means"].cpu().numpy()))
        features = state["features"].cpu().numpy()
        rows = self.capacity_samples if len(features) else 0
        self._features = np.zeros((rows, features.shape[1]), np.float32)
        self._features[: len(features)] = features


def _least_needed(features: _Features, mean: _Features) -> int:
    """The feature without which the mean of the others is nearest to `mean`.

    Example:
        >>> _least_needed(np.array([[0.0], [1.0], [5.0]], np.float32), np.array([0.5], np.float32))
        2
    """
    target = features.sum(0) - (len(features) - 1) * mean
    return int(np.square(features - target).sum(1).argmin())


COMPONENT = Herding
