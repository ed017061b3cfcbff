"""The replay family and distillation."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from insitu.batch import Batch
from insitu.sampling import Indices
from insitu.strategies.rehearsal import Rehearsal
from mutations.base import Mutation, constantly


def _first_slots(self: Any, samples: int) -> Indices:
    return np.arange(min(samples, len(self.memory)), dtype=np.int64)


def _nothing_drawn(self: Any, batch: Batch) -> Batch:
    return batch


def _losses_as_they_are(self: Any, batch: Batch, outputs: Tensor, losses: Tensor) -> Tensor:
    return losses


def _by_chance(self: Any, batch: Batch) -> Indices:
    return Rehearsal.chosen(self, batch)


def _unchanged(self: Any, batch: Batch, generator: Any) -> Batch:
    return batch


MUTATIONS = {
    "replay: nothing is drawn": Mutation(
        "insitu.strategies.rehearsal:Rehearsal.augment",
        _nothing_drawn,
        "tests/test_strategy_replay.py",
    ),
    "replay: always the first slots": Mutation(
        "insitu.strategies.rehearsal:Rehearsal.draw", _first_slots, "tests/test_strategy_replay.py"
    ),
    "replay: nothing is remembered": Mutation(
        "insitu.strategies.rehearsal:Rehearsal.observe",
        constantly(None),
        "tests/test_strategy_replay.py",
    ),
    "replay: rows are not weighted": Mutation(
        "insitu.strategies.replay:ExperienceReplay.losses",
        _losses_as_they_are,
        "tests/test_strategy_replay.py",
    ),
    "replay: the weight does not follow": Mutation(
        "insitu.strategies.replay_weight:ControlledWeight.follow",
        constantly(None),
        "tests/test_strategy_replay.py",
    ),
    "replay: rows are not changed": Mutation(
        "insitu.strategies.replay_augmentation:Augmentation.applied",
        _unchanged,
        "tests/test_strategy_replay_augmentation.py",
    ),
    "er_ace: fresh rows compete with all classes": Mutation(
        "insitu.strategies.er_ace:ERACE.losses",
        _losses_as_they_are,
        "tests/test_strategy_er_ace.py",
    ),
    "der: no distance to remembered outputs": Mutation(
        "insitu.strategies.der:DER.penalty", constantly(None), "tests/test_strategy_der.py"
    ),
    "der: labels of replayed rows are trained": Mutation(
        "insitu.strategies.der:DER.losses", _losses_as_they_are, "tests/test_strategy_der.py"
    ),
    "der_pp: no distance to remembered outputs": Mutation(
        "insitu.strategies.der_pp:DERPlusPlus.penalty",
        constantly(None),
        "tests/test_strategy_der_pp.py",
    ),
    "der_pp: labels are not trained": Mutation(
        "insitu.strategies.der_pp:DERPlusPlus.parts",
        lambda self, rows: (rows // 2, 0),
        "tests/test_strategy_der_pp.py",
    ),
    "mir: candidates are replayed by chance": Mutation(
        "insitu.strategies.mir:MaximallyInterferedRetrieval.chosen",
        _by_chance,
        "tests/test_strategy_mir.py",
    ),
    "lwf: no distillation": Mutation(
        "insitu.strategies.lwf:LearningWithoutForgetting.penalty",
        constantly(None),
        "tests/test_strategy_lwf.py",
    ),
    "lwf: the teacher is not made": Mutation(
        "insitu.strategies.lwf:LearningWithoutForgetting.end_task",
        constantly(None),
        "tests/test_strategy_lwf.py",
    ),
}
