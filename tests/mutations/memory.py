"""Episodic memories: what each keeps, and that draws are uniform."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from insitu.batch import Batch
from insitu.memory import reservoir
from insitu.sampling import Indices
from mutations.base import Mutation, constantly

_place = reservoir.Reservoir._place


def _first_slots(population: int, count: int, generator: torch.Generator) -> Indices:
    return np.arange(count) % population


def _first_slot(population: int, count: int, generator: torch.Generator) -> Indices:
    return np.zeros(count, np.int64)


def _only_the_first(self: Any, batch: Batch, rows: Indices) -> tuple[Indices, Indices]:
    """A memory that is full stays as it is."""
    slots, kept = _place(self, batch, rows)
    new = slots >= self.offered_samples
    return slots[new], kept[new]


def _every_row(self: Any, batch: Batch, rows: Indices) -> tuple[Indices, Indices]:
    """Replaces without the probability capacity / n: the newest samples stay."""
    number = self.offered_samples + np.arange(len(rows))
    slots = np.where(number < self.capacity_samples, number, number % self.capacity_samples)
    return slots, rows


def _all_rows(self: Any, batch: Batch) -> Indices:
    return np.arange(batch.rows)


def _newest_goes(self: Any, number: int) -> int:
    slot: int = self._rings[number].pop()
    return slot


def _never_in_quarantine(self: Any, places: Indices) -> None:
    self._free.extend(places.tolist())


_CONTRACT = "tests/test_memory_contract.py"
_PLACES = "insitu.memory.places:Places"

MUTATIONS = {
    "memory: draws are the first slots": Mutation(
        "insitu.memory.base:distinct", _first_slots, _CONTRACT
    ),
    "memory: draws with repetition are the first slot": Mutation(
        "insitu.memory.base:uniform", _first_slot, _CONTRACT
    ),
    "memory: flags are not looked at": Mutation(
        "insitu.memory.base:Memory._rows_to_offer", _all_rows, _CONTRACT
    ),
    "memory: losses of what was replayed are dropped": Mutation(
        "insitu.memory.store:SampleStore.write_losses", constantly(None), _CONTRACT
    ),
    "reservoir: nothing is replaced": Mutation(
        "insitu.memory.reservoir:Reservoir._place",
        _only_the_first,
        "tests/test_memory_reservoir.py",
    ),
    "reservoir: everything is let in": Mutation(
        "insitu.memory.reservoir:Reservoir._place", _every_row, "tests/test_memory_reservoir.py"
    ),
    "class_balanced: no balance, one class for all": Mutation(
        "insitu.memory.class_balanced:labels",
        lambda batch, field: np.zeros(batch.rows, np.int64),
        "tests/test_memory_class_balanced.py",
    ),
    "class_balanced: a full class passes everything over": Mutation(
        "insitu.memory.balanced_reservoir:BalancedReservoir._replace_own",
        constantly(-1),
        "tests/test_memory_class_balanced.py",
    ),
    "class_balanced: at once, a full class passes everything over": Mutation(
        "insitu.memory.balanced_reservoir:BalancedReservoir._place_in_full",
        lambda self, numbers, draws: np.full(len(numbers), -1),
        "tests/test_memory_class_balanced.py",
    ),
    "task_balanced: no balance, one task for all": Mutation(
        "insitu.memory.task_balanced:tasks",
        lambda batch: np.zeros(batch.rows, np.int64),
        "tests/test_memory_task_balanced.py",
    ),
    "ring_per_class: the newest goes": Mutation(
        "insitu.memory.ring_per_class:RingPerClass._give_up",
        _newest_goes,
        "tests/test_memory_ring_per_class.py",
    ),
    "ring_per_class: a class passes over what is newer": Mutation(
        "insitu.memory.ring_per_class:RingPerClass._replace_own",
        constantly(-1),
        "tests/test_memory_ring_per_class.py",
    ),
    "loss_aware: losses are not looked at": Mutation(
        "insitu.memory.loss_aware:_weights",
        lambda losses: np.ones(len(losses)),
        "tests/test_memory_loss_aware.py",
    ),
    "loss_aware: losses of what was replayed are dropped": Mutation(
        "insitu.memory.loss_aware:LossAware._losses_told",
        constantly(None),
        "tests/test_memory_loss_aware.py",
    ),
    "loss_aware: the first slots go": Mutation(
        "insitu.memory.loss_aware:LossAware._to_go",
        lambda self, count: np.arange(count) % self.capacity_samples,
        "tests/test_memory_loss_aware.py",
    ),
    "gss: gradients are not compared": Mutation(
        "insitu.memory.gss:GradientDiversity._scores_of",
        lambda self, batch, rows: np.full(len(rows), 0.5),
        "tests/test_memory_gss.py",
    ),
    "gss: who is replaced does not depend on scores": Mutation(
        "insitu.memory.gss:GradientDiversity._replaced",
        lambda self, score, draws: int(draws[0] * self.capacity_samples),
        "tests/test_memory_gss.py",
    ),
    "herding: the oldest exemplar goes": Mutation(
        "insitu.memory.herding:_least_needed", constantly(0), "tests/test_memory_herding.py"
    ),
    "places: nothing waits in quarantine": Mutation(
        f"{_PLACES}.free", _never_in_quarantine, "tests/test_memory_disk.py"
    ),
    "disk: what was overwritten is not noticed": Mutation(
        "insitu.memory.disk_room:DiskRoom._check", constantly(None), "tests/test_memory_disk.py"
    ),
}
