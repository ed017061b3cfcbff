"""The figures of the README, held against their targets: `make bench` on a quiet machine.

Left out of the ordinary test run, because two noisy cores say little about speed in a minute.
Each prints its table whether it is reached or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from insitu_service.bench import (
    checkpoint,
    detection,
    hebbian,
    idle,
    ingest,
    log,
    replay,
    strategies,
    training,
)
from insitu_service.bench.comparison import Comparison, print_table

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(900)]


def held(title: str, comparisons: Sequence[Comparison]) -> None:
    print()
    print_table(title, comparisons)
    missed = [c for c in comparisons if not c.reached]
    assert not missed, ", ".join(f"{c.name}: {c.ratio:.3f} against {c.target:g}" for c in missed)


def test_ingest() -> None:
    held("ingest", ingest.measure(rounds=5, total_bytes=1 << 30))


def test_the_stream_log(tmp_path: Path) -> None:
    held("log", log.measure(rounds=5, total_bytes=1 << 29, root=tmp_path))
    accepts, back, rate = log.measure_recovery(1 << 30, tmp_path)
    assert accepts < log.RECOVERY_TARGET_SECONDS
    assert back >= rate


def test_training_beside_a_saturating_producer() -> None:
    held("training", training.measure(rounds=5, seconds=4.0))


def test_a_hebbian_network_beside_a_saturating_producer() -> None:
    held("hebbian", hebbian.measure(rounds=5, seconds=4.0))


def test_replay() -> None:
    held("replay", replay.measure(rounds=7))


def test_steps_of_strategies() -> None:
    held("strategies", strategies.measure(rounds=15))


def test_checkpoint() -> None:
    held("checkpoint", checkpoint.measure(rounds=15))


def test_drift_detection() -> None:
    held("drift detection (floor: the limit)", detection.measure())


def test_idle() -> None:
    held("idle (floor: the limit)", idle.measure(seconds=20.0))
