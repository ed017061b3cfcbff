"""Fair shares: equal at equal offer, and nobody's neighbours pay for a bad one. See `hall`."""

from __future__ import annotations

import numpy as np

from fair_share import company, equal_offer
from hall import Guest, Hall


def test_at_equal_offer_everybody_gets_the_same() -> None:
    taken = equal_offer(16, warm_up_seconds=3.0, seconds=4.0)
    assert np.abs(taken / taken.mean() - 1.0).max() < 0.1


def test_who_offers_little_gets_all_that_it_offers() -> None:
    greedy = [Guest(f"greedy{index}") for index in range(4)]
    modest = Guest("modest", rows_per_second=200.0)
    hall = Hall([*greedy, modest], ring_rows=512, trained_rows_per_second=2500.0)
    hall.run_for(2.0)
    before = modest.accepted_rows
    hall.run_for(3.0)
    assert modest.accepted_rows - before > 0.95 * 200.0 * 3.0
    assert modest.window.books.pending_rows <= 16


def test_who_comes_late_neither_waits_for_the_past_nor_is_made_up_for_it() -> None:
    first = [Guest(f"first{index}") for index in range(3)]
    late = Guest("late")
    late.stalled = True
    hall = Hall([*first, late], ring_rows=256, trained_rows_per_second=2000.0)
    hall.run_for(2.0)
    late.stalled = False
    before = np.array([guest.accepted_rows for guest in hall.guests])
    hall.run_for(3.0)
    taken = np.array([guest.accepted_rows for guest in hall.guests]) - before
    assert np.abs(taken / taken.mean() - 1.0).max() < 0.15


def test_an_idle_promise_does_not_stop_the_others() -> None:
    """It was given credit, and is silent: what it holds is lent after a while."""
    busy = [Guest(f"busy{index}") for index in range(3)]
    silent = Guest("silent")
    hall = Hall([*busy, silent], ring_rows=64, trained_rows_per_second=2000.0)
    hall.run_for(1.0)
    silent.stalled = True
    hall.run_for(3.0)
    before = sum(guest.accepted_rows for guest in busy)
    hall.run_for(2.0)
    assert sum(guest.accepted_rows for guest in busy) - before > 0.95 * 2000.0 * 2.0


def test_a_quota_leaves_the_rest_to_the_others() -> None:
    guests = [
        Guest(f"g{index}", rows_per_second=rate) for index, rate in enumerate((100.0, 4000.0))
    ]
    hall = Hall(
        guests, ring_rows=512, trained_rows_per_second=8000.0, quota_bytes_per_second=500.0 * 48
    )
    hall.run_for(2.0)
    before = [guest.accepted_rows for guest in guests]
    hall.run_for(4.0)
    modest, greedy = (guest.accepted_rows - had for guest, had in zip(guests, before, strict=True))
    assert modest == 400 or abs(modest - 400) <= 16
    assert abs(greedy - 2000) <= 0.1 * 2000
    assert hall.intake.full_batches == 0


def test_bad_company_does_not_move_the_others() -> None:
    found = company(12, seconds=2.0)
    for bad in (found.with_stalled, found.with_slow, found.with_hostile):
        assert bad <= 1.2 * found.alone + 1e-9
