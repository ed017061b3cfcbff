"""A stream without end costs the same at every sample: after a million as after ten thousand.

Two runs alike in all but their age step in turns, a few steps each; the ratio is the median over
the turns. What is slow for a while is slow for both, and what a machine is busy with is measured
again. Bytes that a run keeps are counted exactly. On a quiet machine, one thread:

    OMP_NUM_THREADS=1 python -m pytest -m benchmark -s tests/benchmarks/test_constant_cost.py

Measured, on two cores that others used too, time and bytes kept beyond those of the young run:
naive 1.006, +1468; online_ewc 1.002, +1524; si 1.006, +1468; a_gem 1.024, +1468; all detectors
0.903, +1772; replay from reservoir 1.014, class_balanced 1.003, task_balanced 0.982,
ring_per_class 0.985, loss_aware 0.991, herding (after 200,000) 1.013, gss (after 50,000) 0.994,
each at most +2712. Those bytes are numbers above 256, which Python does not share, and counts of
more digits.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import cycle
from statistics import median
from typing import Any

import pytest

from insitu.batch import Batch
from insitu.component import catalogue
from live_bytes import live_bytes
from long_run import WINDOW_STEPS, LongRun, batches, long_run

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(900)]

YOUNG_SAMPLES, OLD_SAMPLES = 10_000, 1_000_000
MOST_RATIO = 1.03
#: the samples that age a run come in batches of this many, those that are timed in small ones
AGEING_ROWS, ROWS = 500, 8
_ATTEMPTS, _TURNS, _STEPS = 4, 60, 5

RUNS: dict[str, dict[str, Any]] = {
    "naive": {},
    "online_ewc": {"strategy": "online_ewc"},
    "si": {"strategy": "si"},
    "a_gem": {"strategy": "a_gem"},
    "naive, all detectors": {"watch": True},
    **{
        f"replay, {memory}": {"strategy": "replay", "memory": memory}
        for memory in sorted(catalogue("insitu.memory"))
    },
}
#: what takes a gradient of every sample that is offered would take many minutes to age
SOONER = {"replay, gss": 50_000, "replay, herding": 200_000}


@pytest.mark.parametrize("name", RUNS)
def test_the_millionth_sample_costs_what_the_ten_thousandth_did(name: str) -> None:
    young, old = _aged(name, YOUNG_SAMPLES), _aged(name, SOONER.get(name, OLD_SAMPLES))
    grown_bytes = live_bytes(old) - live_bytes(young)
    ratios = []
    for _ in range(_ATTEMPTS):
        ratios.append(_ratio(young, old))
        if ratios[-1] <= MOST_RATIO:
            break
    print(f"\n{name}: {ratios[-1]:.3f} of the time, {grown_bytes:+d} of {live_bytes(old)} bytes")
    assert min(ratios) <= MOST_RATIO, ratios
    assert grown_bytes < 4096


def _aged(name: str, samples: int) -> LongRun:
    """A run that has trained so many samples, and has stepped as it will be timed."""
    run = long_run(**RUNS[name])
    run.begin()
    run.feed(samples // AGEING_ROWS, AGEING_ROWS)
    run.feed(WINDOW_STEPS - run.trainer.steps % WINDOW_STEPS, ROWS)
    return run


def _ratio(young: LongRun, old: LongRun) -> float:
    """Seconds of the old one to those of the young one, turn by turn."""
    ratios, rows = [], cycle(batches(ROWS))
    for turn in range(_TURNS):
        first, second = (young, old) if turn % 2 else (old, young)
        seconds = {id(run): _seconds(run, rows) for run in (first, second)}
        ratios.append(seconds[id(old)] / seconds[id(young)])
    return median(ratios)


def _seconds(run: LongRun, rows: Iterator[Batch]) -> float:
    began = time.perf_counter()
    for _ in range(_STEPS):
        run.step(next(rows))
    return time.perf_counter() - began
