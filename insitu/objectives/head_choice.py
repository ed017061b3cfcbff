"""Which head answers when nobody says which task it is.

Each rule gives every head a score for every row; the highest wins, for a row alone, or for all rows
of a set together by the mean score, where they are known to be of one task. With the logits l of
the classes that head h has seen, and features f:

    maximum_logit   max l                                   (Hendrycks et al., "Scaling
                    out-of-distribution detection for real-world settings", 2022)
    energy          (log sum exp l - mean_h) / deviation_h  (Liu et al., "Energy-based
                    out-of-distribution detection", 2020)
    nearest_mean    - min over the head's classes of |f - mean_c|^2
    class_votes     mean over the head's classes of p(c | f), by one classifier of all classes that
                    learns beside the heads (`insitu.objectives.class_votes`)

The first three compare heads that never learned against each other, and by means and scales that
are as old as the last rows of a head. `class_votes` learned to tell classes of different tasks
apart, as far as rows are replayed; over a set its votes add up, so it finds the task of a set where
it is wrong about a good part of the rows.

Deviations: energies are calibrated, by the running mean and deviation of the energy of head h over
the rows that were trained with it: heads differ in scale by how long they were trained.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

Choice = Literal["given", "maximum_logit", "energy", "nearest_mean", "class_votes"]

#: keeps a division finite where all energies were equal
_EPSILON = 1e-6


class EnergyCalibration:
    """Exponential mean and deviation of the energy of every head over its own rows.

    Args:
        heads: how many.
        decay: what one row of a head leaves of its mean and deviation.

    Example:
        >>> calibration = EnergyCalibration(2, decay=0.5)
        >>> energies, heads = torch.tensor([[1.0, 9.0], [3.0, 9.0]]), torch.tensor([0, 0])
        >>> calibration.count(energies, heads)
        >>> calibration.calibrated(torch.tensor([[2.0, 0.0]]))
        tensor([[0., -inf]])
    """

    def __init__(self, heads: int, *, decay: float) -> None:
        self._decay = decay
        self.means = torch.zeros(heads)
        self.squares = torch.zeros(heads)
        self.rows = torch.zeros(heads)

    def to(self, device: torch.device) -> None:
        if self.means.device != device:
            self.means, self.squares, self.rows = (
                t.to(device) for t in (self.means, self.squares, self.rows)
            )

    def count(self, energies: Tensor, heads: Tensor) -> None:
        """Take over rows: (rows, heads) energies, and (rows,) the head of each."""
        self.to(energies.device)
        own = heads.unsqueeze(1) == torch.arange(len(self.rows), device=heads.device)
        rows = own.sum(dim=0).to(energies.dtype)
        known = torch.where(own, energies, 0.0)  # heads without classes have no finite energy
        mean = known.sum(dim=0) / rows.clamp_min(1)
        square = known.square().sum(dim=0) / rows.clamp_min(1)
        share = torch.where(self.rows > 0, 1 - self._decay**rows, (rows > 0).to(rows))
        self.means = torch.lerp(self.means, mean, share)
        self.squares = torch.lerp(self.squares, square, share)
        self.rows = self.rows + rows

    def calibrated(self, energies: Tensor) -> Tensor:
        """(rows, heads) in deviations from the head's mean; -inf for heads without rows."""
        self.to(energies.device)
        deviations = (self.squares - self.means.square()).clamp_min(0).sqrt() + _EPSILON
        return torch.where(self.rows > 0, (energies - self.means) / deviations, -math.inf)

    def state_dict(self) -> dict[str, Tensor]:
        return {"means": self.means, "squares": self.squares, "rows": self.rows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, own in self.state_dict().items():
            setattr(self, name, state[name].detach().to(own, copy=True))


def chosen_by_row(scores: Tensor) -> Tensor:
    """(rows,) the head of the highest score."""
    return scores.argmax(dim=1)


def chosen_by_set(scores: Tensor) -> Tensor:
    """(rows,) the head of the highest mean score over all rows, the same for each."""
    best = scores.mean(dim=0).nan_to_num(nan=-math.inf).argmax() if len(scores) else 0
    return torch.zeros(len(scores), dtype=torch.int64, device=scores.device) + best
