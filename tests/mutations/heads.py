"""Heads of tasks without what makes them heads of tasks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mutations.base import Mutation, constantly

_HEADS = "insitu.objectives.task_heads:TaskHeads"
_TESTS = "tests/test_objectives_task_heads.py"


def _first_head(self: Any, batch: Any) -> Tensor:
    return torch.zeros(batch.rows, dtype=torch.int64)


def _everything(self: Any, batch: Any) -> Tensor:
    return torch.ones_like(self._seen)


def _raw(self: Any, energies: Tensor) -> Tensor:
    return energies


def _plain_softmax(self: Any, logits: Tensor, is_class: Tensor) -> Tensor:
    return -torch.where(is_class, logits.log_softmax(dim=1), 0.0).sum(dim=1)


MUTATIONS = {
    "task_heads: all tasks share a head": Mutation(f"{_HEADS}.head_of", _first_head, _TESTS),
    "task_heads: heads answer with classes they never saw": Mutation(
        f"{_HEADS}._seen_with", _everything, _TESTS
    ),
    "task_heads: nothing is observed": Mutation(f"{_HEADS}.observe", constantly(None), _TESTS),
    "task_heads: energies are not calibrated": Mutation(
        "insitu.objectives.head_choice:EnergyCalibration.calibrated", _raw, _TESTS
    ),
    "task_heads: votes are not balanced": Mutation(
        "insitu.objectives.class_votes:ClassVotes.losses", _plain_softmax, _TESTS
    ),
}
