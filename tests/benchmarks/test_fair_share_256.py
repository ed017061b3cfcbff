"""256 producers at once, in virtual time, with the service's and the client's own parts (`hall`).

Fair to within 10 % at equal offer; a bad one moves the others' p99 time to acknowledgement by 20 %
at most.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from fair_share import company, equal_offer

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(3600)]


def test_256_producers_get_the_same() -> None:
    taken = equal_offer(256, warm_up_seconds=6.0, seconds=6.0)
    off = np.abs(taken / taken.mean() - 1.0).max()
    print(f"\n256 producers: {taken.min()} to {taken.max()} rows each, {off:.1%} off the mean")
    assert off < 0.10


def test_a_bad_one_among_256_does_not_move_the_others() -> None:
    found = company(255, seconds=2.0)
    print(f"\np99 of the time to acknowledgement, seconds: {found}")
    for bad in (found.with_stalled, found.with_slow, found.with_hostile):
        assert bad <= 1.2 * found.alone + 1e-9
