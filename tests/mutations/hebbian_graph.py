"""Hebbian steps captured, compiled, in half precision or another layout, less what they need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from insitu.layers.hebbian import HebbianLayer
from mutations.base import Mutation, constantly

GRAPH = "tests/test_hebbian_graph.py"
COMPILED = "tests/test_hebbian_compiled.py"
CAPTURED = "tests/test_hebbian_captured_pass.py"

_apply_update = HebbianLayer.apply_update


def _all_largest(potentials: Tensor) -> Tensor:
    return potentials == potentials.amax(-1, keepdim=True)


def _not_padded(self: Any, padded: bool) -> Any:
    return self._update.recording(self._labels, None)


def _taken_over_always(self: Any) -> None:
    self.running_mean.copy_(self.next_mean)
    self.running_var.copy_(self.next_var)
    self.num_batches_tracked += 1


def _looking(self: Any, prepared: Tensor, potentials: Tensor, labels: Tensor | None) -> None:
    activities = self.rule.activities(potentials, labels)
    self._find_direction(activities, prepared, potentials)
    if not bool(torch.isfinite(self.direction).all()):
        self.direction.zero_()


def _in_the_same_memory(self: Any, *given: Tensor | None) -> Tensor:
    for kept, each in zip((self.rows, self.mask, self.labels), given, strict=True):
        if kept is not None and each is not None:
            kept.copy_(each)
    result: Tensor = self.run()
    return result


def _nothing_put_back(function: Any, state: Any, aside: Any = None) -> None:
    for _ in range(3):
        function()


@contextmanager
def _shown_elsewhere(self: Any, mask: Any, labels: Any) -> Iterator[None]:
    yield


def _rounded(self: Any) -> None:
    _apply_update(self)
    with torch.no_grad():
        self.weight.copy_(self.weight.bfloat16())


MUTATIONS = {
    "hebbian graph: every largest kernel wins": Mutation(
        "insitu.layers.rules.competition:_wins", _all_largest, COMPILED
    ),
    "hebbian graph: padding teaches": Mutation(
        "insitu.layers.graph:CapturedStep._recording", _not_padded, GRAPH
    ),
    "hebbian graph: nobody is told that layers moved": Mutation(
        "insitu.layers.update:HebbianUpdate.tell_followers", constantly(None), GRAPH
    ),
    "hebbian graph: discarded statistics are taken over": Mutation(
        "insitu.layers.standardisation:BatchStandardisation.apply_update", _taken_over_always, GRAPH
    ),
    "hebbian graph: the step looks at the device": Mutation(
        "insitu.layers.hebbian:HebbianLayer._record", _looking, GRAPH
    ),
    "hebbian graph: weights in bfloat16": Mutation(
        "insitu.layers.hebbian:HebbianLayer.apply_update",
        _rounded,
        "tests/test_hebbian_bfloat16.py",
    ),
    "hebbian graph: the next pass writes over the last one": Mutation(
        "insitu.layers.captured_pass:_Pass.__call__", _in_the_same_memory, CAPTURED
    ),
    "hebbian graph: hooks are captured": Mutation(
        "insitu.layers.captured_pass:check_unwatched", constantly(None), CAPTURED
    ),
    "hebbian graph: every pass is captured": Mutation(
        "insitu.layers.captured_pass:CapturedPass._learns", constantly(True), CAPTURED
    ),
    "hebbian graph: mask and labels stay where they are": Mutation(
        "insitu.layers.captured_pass:CapturedPass._shown", _shown_elsewhere, CAPTURED
    ),
    "hebbian graph: a capture teaches": Mutation(
        "insitu.layers.capture:warm_up", _nothing_put_back, CAPTURED
    ),
    "hebbian graph: channels always first": Mutation(
        "insitu.models.hebbian:_LAYOUTS", {}, "tests/test_hebbian_layout.py"
    ),
}
