"""Hebbian networks without their order, their sides, their normalised features."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from insitu.layers.block import pooling
from mutations.base import Mutation, constantly

MODEL = "tests/test_models_hebbian.py"
TRAINER = "tests/test_trainer_hebbian.py"


def _pool_with_an_edge(options: Any, dimensions: int, mode: str) -> nn.Module:
    return pooling(
        options.kind,
        dimensions,
        options.size,
        stride=options.stride,
        padding=options.padding,
    )


def _all_at_once(self: Any) -> None:
    self._certain_updates = None


def _thawing(self: Any, mode: bool = True) -> Any:
    return nn.Module.train(self, mode)


def _as_they_are(rows: Tensor, shape: Any) -> Tensor:
    return rows


def _every_step_an_update(self: Any) -> None:
    """Counts steps, not the updates that they made."""
    passed = self.__dict__.get("_passed", 0) + 1
    current = passed // self._plastic_updates
    for index, layer in enumerate(self._layers):
        layer.plastic = index == current
    self.__dict__["_passed"] = passed


_HEBBIAN = "insitu.models.hebbian:Hebbian"

MUTATIONS = {
    "hebbian: pools have an edge": Mutation(
        "insitu.models.hebbian_blocks:_pool", _pool_with_an_edge, MODEL
    ),
    "hebbian: blocks learn all at once": Mutation(f"{_HEBBIAN}.follow_counts", _all_at_once, MODEL),
    "hebbian: steps count as updates": Mutation(
        f"{_HEBBIAN}.after_update", _every_step_an_update, MODEL
    ),
    "hebbian: frozen blocks thaw": Mutation(f"{_HEBBIAN}.train", _thawing, MODEL),
    "hebbian: labels lengthen kernels": Mutation(
        "insitu.layers.rules.supervised_soft:SupervisedSoft.decay", "potential", MODEL
    ),
    "hebbian: features not normalised": Mutation(
        "insitu.models.hebbian:functional.layer_norm", _as_they_are, MODEL
    ),
    "hebbian: order not followed after a load": Mutation(
        "insitu.models.hebbian:_follow_counts", constantly(None), TRAINER
    ),
}
