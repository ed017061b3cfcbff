"""A stream without end takes no more memory the longer it is: of what every part keeps, in bytes.

That steps take no longer either is held by `tests/benchmarks/test_constant_cost.py`.
"""

from __future__ import annotations

import pytest
import torch

from insitu.component import catalogue
from insitu.strategies.base import Observation, Strategy
from live_bytes import graphs, live_bytes
from long_run import WINDOW_STEPS, LongRun, long_run

MEMORIES = sorted(catalogue("insitu.memory"))
STRATEGIES = sorted(catalogue("insitu.strategies"))
#: integers and histograms that grow with the logarithm of what they count
_ALLOWANCE_BYTES = 1000


def growth_bytes(run: LongRun) -> int:
    """By how much a run has grown after twice as many steps; a number a step would show."""
    run.begin()
    run.feed(7 * WINDOW_STEPS, 7)  # small integers, up to 256, take nothing
    before = live_bytes(run)
    run.feed(7 * WINDOW_STEPS, 7)
    assert graphs(run) == []
    return live_bytes(run) - before


@pytest.mark.parametrize("name", STRATEGIES)
def test_no_strategy_grows_with_the_stream(name: str) -> None:
    assert growth_bytes(long_run(name)) < _ALLOWANCE_BYTES


@pytest.mark.parametrize("name", MEMORIES)
def test_no_memory_grows_when_it_is_full(name: str) -> None:
    assert growth_bytes(long_run("replay", memory=name)) < _ALLOWANCE_BYTES


def test_detectors_and_figures_do_not_grow() -> None:
    assert growth_bytes(long_run(watch=True)) < _ALLOWANCE_BYTES


class Leaky(Strategy):
    """Keeps something of every step."""

    def __init__(self, *, graph: bool) -> None:
        self.kept: list[torch.Tensor] = []
        self._graph = graph

    def observe(self, observation: Observation) -> None:
        loss = observation.losses.sum()
        if self._graph:
            loss = loss.requires_grad_() * 2.0
            self.kept.clear()
        self.kept.append(loss)


@pytest.mark.parametrize("graph", [False, True])
def test_what_grows_is_found(graph: bool) -> None:
    run = long_run()
    leaky = Leaky(graph=graph)
    run.trainer = type(run.trainer)(
        run.trainer.model, run.trainer.objective, run.trainer.optimizer, strategies=[leaky]
    )
    if graph:
        with pytest.raises(AssertionError):
            growth_bytes(run)
    else:
        assert growth_bytes(run) > 7 * WINDOW_STEPS * 4
