"""Hebbian layers without losers, without decay, without norms, without their guards."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from insitu.layers.moments import moments_of
from mutations.base import Mutation, constantly

LAYERS = "tests/test_hebbian_layers.py"
UPDATE = "tests/test_hebbian_update.py"
MASKS = "tests/test_hebbian_masks.py"


def _soft(self: Any, potentials: Tensor, labels: Tensor | None) -> Tensor:
    return torch.softmax(potentials * self.inverse_temperature, dim=1)


def _no_term(self: Any, potentials: Tensor, labels: Tensor | None) -> Tensor:
    return torch.zeros_like(potentials)


def _unlearning_left_out(self: Any, potentials: Tensor, labels: Tensor | None) -> Tensor:
    winner = potentials.argmax(dim=1, keepdim=True)
    return torch.zeros_like(potentials).scatter_(1, winner, 1.0)


def _no_decay(self: Any, activities: Tensor, prepared: Tensor, _potentials: Tensor) -> None:
    self.direction.copy_(self._correlate(activities, prepared))


def _always_recording(self: Any, value: bool) -> None:
    for part in self.parts:
        part.recording = True


def _zeros(rows: Tensor, amounts: Any, _mode: str) -> Tensor:
    both_sides = [amount for amount in reversed(amounts) for _ in range(2)]
    return torch.nn.functional.pad(rows, both_sides)


def _last_zero(gaps: Tensor) -> Tensor:
    return (gaps.shape[1] - 1) - gaps.flip(1).argmax(dim=1, keepdim=True)


def _poisoned(self: Any, rows: Tensor) -> Tensor:
    return torch.nn.functional.batch_norm(
        rows, self.running_mean, self.running_var, training=self.training and len(rows) > 1
    )


_RULES = "insitu.layers.rules"
_LAYER = "insitu.layers.hebbian:HebbianLayer"

MUTATIONS = {
    "hebbian: the losers learn too": Mutation(
        f"{_RULES}.softhebb:SoftHebb.activities", _soft, LAYERS
    ),
    "hebbian: no kernel of rank k unlearns": Mutation(
        f"{_RULES}.krotov_hopfield:KrotovHopfield.activities", _unlearning_left_out, LAYERS
    ),
    "hebbian: labels teach nothing": Mutation(
        f"{_RULES}.supervised_soft:SupervisedSoft.activities", _no_term, LAYERS
    ),
    "hebbian: instar decays as Oja": Mutation(f"{_RULES}.instar:Instar.decay", "potential", LAYERS),
    "hebbian: of equal kernels the last wins": Mutation(
        f"{_RULES}.competition:_first_zero", _last_zero, UPDATE
    ),
    "hebbian: no decay": Mutation(
        "insitu.layers.convolution:HebbianConvolution._find_direction", _no_decay, LAYERS
    ),
    "hebbian: borders are zeros": Mutation("insitu.layers.convolution:pad", _zeros, LAYERS),
    "hebbian: norms and rates are not recomputed": Mutation(
        f"{_LAYER}.refresh", constantly(None), LAYERS
    ),
    "hebbian: a step cannot be skipped": Mutation(f"{_LAYER}.discard", constantly(None), UPDATE),
    "hebbian: every forward pass records": Mutation(
        "insitu.layers.update:HebbianUpdate._set_recording", _always_recording, UPDATE
    ),
    "hebbian: states of any width": Mutation(f"{_LAYER}._check_state", constantly(None), UPDATE),
    "hebbian: bad batches poison the statistics": Mutation(
        "insitu.layers.standardisation:BatchStandardisation.forward", _poisoned, UPDATE
    ),
    "hebbian: adaptive rates do not adapt": Mutation(
        "insitu.layers.learning_rates:AdaptiveRates.__call__",
        lambda self, norms, updates: torch.full_like(norms, self.eta),
        LAYERS,
    ),
    "hebbian: linear rates do not fall": Mutation(
        "insitu.layers.learning_rates:LinearRates.__call__",
        lambda self, norms, updates: torch.full_like(norms, self.eta),
        LAYERS,
    ),
    "hebbian: padding teaches": Mutation(
        "insitu.layers.hebbian:only", lambda rows, real: rows.nan_to_num(1.0), MASKS
    ),
    "hebbian: padding counts in statistics": Mutation(
        "insitu.layers.standardisation:moments_of",
        lambda rows, mask: moments_of(rows, torch.ones_like(mask)),
        MASKS,
    ),
    "hebbian: triangle without its mean": Mutation(
        "insitu.layers.triangle:Triangle.forward",
        lambda self, u: torch.relu(u) ** self.power,
        UPDATE,
    ),
}
