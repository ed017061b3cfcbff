"""Ridge regression on a stream, by the sums of its normal equations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

#: columns of G that are updated at once; smaller ones skip more of the upper triangle
_COLUMNS_AT_ONCE = 1024


class LeastSquares:
    """Accumulates G = sum phi phi^T and C = sum phi y^T, solves (G + l I) W = C when asked.

    phi is a row's features and a 1 behind them, whose weight is regularised as all are. G is
    symmetric: only its lower triangle is summed and read, in about half the time.

    Args:
        size: length of the features.
        targets: length of y.
        regularisation: l in units of trace(G) / (size + 1).
        dtype: of the sums.
        refit_ratio: growth of the number of rows at which `count` solves for `predict_lately`.

    Example:
        >>> fit = LeastSquares(1, 1, regularisation=1e-9, dtype=torch.float64)
        >>> x = torch.tensor([[0.0], [1.0], [2.0]])
        >>> fit.count(x, 3 * x + 1)
        >>> fit.predict(torch.tensor([[10.0]]))
        tensor([[31.]])
    """

    def __init__(
        self,
        size: int,
        targets: int,
        *,
        regularisation: float,
        dtype: torch.dtype,
        refit_ratio: float = 1.5,
    ) -> None:
        self._refit_ratio = refit_ratio
        self._regularisation = regularisation
        self._gram = torch.zeros(size + 1, size + 1, dtype=dtype)
        self._moments = torch.zeros(size + 1, targets, dtype=dtype)
        self._weights = torch.zeros(size + 1, targets)
        self._rows, self._fitted_rows = 0, 0
        # of the newest sums; no part of the state, since it follows from them
        self._newest: Tensor | None = None

    def _to(self, device: torch.device) -> None:
        if self._gram.device != device:
            self._gram, self._moments = self._gram.to(device), self._moments.to(device)
            self._weights = self._weights.to(device)

    def count(self, features: Tensor, targets: Tensor, constant: Tensor | None = None) -> None:
        """Add rows.

        Args:
            features: (rows, size).
            targets: (rows, targets).
            constant: (rows,) what stands behind the features in place of 1; a row of zeros
                throughout adds nothing.
        """
        self._to(features.device)
        rows = features.shape[0]
        ones = features.new_ones(rows) if constant is None else constant.to(features.dtype)
        phi = torch.cat((features, ones.unsqueeze(1)), dim=1).to(self._gram.dtype)
        for start in range(0, len(self._gram), _COLUMNS_AT_ONCE):
            block = slice(start, start + _COLUMNS_AT_ONCE)
            self._gram[start:, block].addmm_(phi[:, start:].T, phi[:, block])
        self._moments.addmm_(phi.T, targets.to(self._gram.dtype))
        self._rows += rows
        self._newest = None
        if self._rows >= self._fitted_rows * self._refit_ratio:
            self._weights, self._fitted_rows = self._solved(), self._rows

    def predict(self, features: Tensor) -> Tensor:
        """(rows, targets) by the weights that fit all rows so far; solves if they are new."""
        self._to(features.device)
        if self._newest is None:
            self._newest = self._solved()
        return features @ self._newest[:-1] + self._newest[-1]

    def predict_lately(self, features: Tensor) -> Tensor:
        """The same by weights of at least 1 / refit_ratio of the rows; never solves."""
        self._to(features.device)
        return features @ self._weights[:-1] + self._weights[-1]

    def _solved(self) -> Tensor:
        system = self._gram.to(torch.float64, copy=True)
        diagonal = system.diagonal()
        # a stream of zeros would leave nothing to factor; any positive number serves
        diagonal.add_((self._regularisation * diagonal.mean()).clamp_min(1e-300))
        factor = torch.linalg.cholesky_ex(system).L  # of the lower triangle
        return torch.cholesky_solve(self._moments.double(), factor).float()

    def state_dict(self) -> dict[str, Any]:
        return {
            "gram": self._gram,
            "moments": self._moments,
            "weights": self._weights,
            "rows": self._rows,
            "fitted_rows": self._fitted_rows,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._gram.copy_(state["gram"])
        self._moments.copy_(state["moments"])
        self._weights = state["weights"].detach().to(self._weights.device, copy=True)
        self._rows, self._fitted_rows = int(state["rows"]), int(state["fitted_rows"])
        self._newest = None
