"""The short profile of fuzzing: enough damage to find what is badly broken, in some seconds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from chaos.decoder_fuzz import fuzz_decoder
from chaos.fuzz import fuzz
from chaos.socket_fuzz import fuzz_socket
from chaos.targets import NAMES

_MOST_GROWN_BYTES = 16 << 20
_INPUTS = {"wire": 5000, "checkpoint": 500, "config": 60, "http": 500, "log": 300}


def test_the_decoder_knows_every_damaged_message() -> None:
    figures = fuzz_decoder(100_000, seed=1)
    print(figures)
    assert sum(figures.outcomes.values()) == 100_000
    assert len(figures.outcomes) == 14  # twelve kinds of message and two of error
    assert figures.grown_bytes < _MOST_GROWN_BYTES
    assert figures.slowest_seconds < 5.0


def test_a_service_survives_damaged_messages_and_counts_each(tmp_path: Path) -> None:
    figures = fuzz_socket(tmp_path, 10_000, seed=1)
    print(figures)
    assert figures.counted == figures.sent > figures.damaged == 10_000
    assert figures.understood > 1000
    assert figures.grown_bytes < _MOST_GROWN_BYTES
    assert figures.grown_descriptors <= 2


@pytest.mark.parametrize("target", NAMES)
def test_a_target_survives_damage_to_its_corpus(target: str) -> None:
    figures = fuzz(target, _INPUTS[target], seed=1)
    print(figures)
    assert figures.grown_bytes < _MOST_GROWN_BYTES


def test_fuzzing_by_coverage_runs_where_atheris_is(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="pip install insitu[fuzz], on CPython up to 3.11")
    done = subprocess.run(
        [sys.executable, "-m", "chaos.fuzz_atheris", "wire", "1"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Done" in done.stderr
