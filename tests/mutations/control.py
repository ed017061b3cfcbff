"""The gate must be able to fail: a mutation that changes nothing, and has to survive."""

from __future__ import annotations

from insitu.strategies.replay import ExperienceReplay
from mutations.base import Mutation

CONTROL = "control: nothing is taken out"

MUTATIONS = {
    CONTROL: Mutation(
        "insitu.strategies.replay:ExperienceReplay.observe",
        ExperienceReplay.observe,
        "tests/test_strategy_replay.py",
    ),
}
