"""The mean feature vector of every class, kept as features pass by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class ClassMeans:
    """Running or exponential means of features, one a class.

    With `decay` d a mean forgets: after n rows of its class it keeps d^n of what it was. With d = 1
    it is the plain mean of all rows that were ever counted. Tensors are replaced, never written
    to, so what holds one sees it as it was.

    Args:
        classes: how many.
        features: length of a vector.
        decay: in (0, 1].

    Example:
        >>> means = ClassMeans(3, 1, decay=1.0)
        >>> means.count(torch.tensor([[1.0], [2.0], [6.0]]), torch.tensor([0, 2, 2]))
        >>> means.means.flatten().tolist(), means.seen.tolist()
        ([1.0, 0.0, 4.0], [True, False, True])
    """

    def __init__(self, classes: int, features: int, *, decay: float) -> None:
        self.means = torch.zeros(classes, features)
        self.rows = torch.zeros(classes)
        self._decay = decay
        self._numbers = torch.arange(classes)

    @property
    def seen(self) -> Tensor:
        """(classes,) bool: whether a class has a mean."""
        return self.rows > 0

    def to(self, device: torch.device) -> None:
        """Move to where the features are; does nothing when there already."""
        if self.means.device != device:
            self.means, self.rows = self.means.to(device), self.rows.to(device)
            self._numbers = self._numbers.to(device)

    def means_of(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(classes, features) means of these rows alone, zeros for absent classes, and (classes,)
        how many rows each had. A label of -1 belongs to no class."""
        self.to(features.device)
        is_class = (labels.unsqueeze(1) == self._numbers).to(torch.float32)
        rows = is_class.sum(dim=0)
        return is_class.T @ features.float() / rows.clamp_min(1).unsqueeze(1), rows

    def count(self, features: Tensor, labels: Tensor) -> None:
        """Take rows into the means of their classes."""
        means, rows = self.means_of(features, labels)
        total = self.rows + rows
        share = rows / total.clamp_min(1)
        if self._decay < 1:
            share = torch.where(self.seen, 1 - self._decay**rows, (rows > 0).float())
        self.means = torch.lerp(self.means, means, share.unsqueeze(1))
        self.rows = total

    def follow(self, features: Tensor, labels: Tensor, fresh_rows: int, *, last: bool) -> None:
        """Count the rows of one of several updates on a batch, see `Objective.observe`: fresh
        rows in the last update alone, the replayed ones behind them in each."""
        start = 0 if last else fresh_rows
        if start < len(features):
            self.count(features[start:], labels[start:])

    def logits(self, features: Tensor, temperature: float, means: Tensor | None = None) -> Tensor:
        """(rows, classes) -||f - mean_c||^2 / temperature; of unseen classes a mean of zeros."""
        self.to(features.device)
        means = self.means if means is None else means
        squares = features.square().sum(dim=1, keepdim=True) + means.square().sum(dim=1)
        return (2 * features @ means.T - squares) / temperature

    def state_dict(self) -> dict[str, Any]:
        return {"means": self.means, "rows": self.rows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.means = state["means"].detach().to(self.means.device, copy=True)
        self.rows = state["rows"].detach().to(self.rows.device, copy=True)
