"""Quotas: the token bucket is exact, credit keeps to it, and a real service enforces it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import served
from daemon import Daemon, wait_for
from insitu_service.ingest.quota import Quotas, TokenBucket
from served import SCHEMA, arrays, config, producer

ROW = 48


@given(
    st.floats(1.0, 1e6),
    st.floats(1.0, 1e6),
    st.lists(st.tuples(st.floats(0, 10), st.floats(0, 1)), max_size=50),
)
def test_nobody_takes_more_than_burst_and_rate_in_any_interval(
    rate: float, burst: float, takes: list[tuple[float, float]]
) -> None:
    bucket, now, history = TokenBucket(rate, burst, 0.0), 0.0, []
    for pause, share in takes:
        now += pause
        amount = share * max(0.0, bucket.left(now))
        bucket.take(amount, now)
        history.append((now, amount))
    for start in range(len(history)):
        for end in range(start, len(history)):
            taken = sum(amount for _, amount in history[start : end + 1])
            seconds = history[end][0] - history[start][0]
            assert taken <= (burst + rate * seconds) * (1 + 1e-9) + 1e-6


@given(st.floats(0.1, 1e4), st.floats(0.2, 5.0))
def test_who_always_asks_gets_the_rate(rows_per_second: float, every_seconds: float) -> None:
    clock = [0.0]
    quotas = Quotas(rows_per_second * ROW, row_bytes=ROW, clock=lambda: clock[0])
    taken, rounds = 0, 400
    for _ in range(rounds):
        taken += quotas.grant("p", 1 << 40)
        wait = quotas.wait_seconds("p")
        assert wait <= max(1.0, 1.0 / rows_per_second) * (1 + 1e-9)
        clock[0] += max(wait, 1e-6) + (every_seconds if taken < 0 else 0.0)
    burst = max(ROW, rows_per_second * ROW)
    most = burst + rows_per_second * ROW * clock[0]
    assert taken % ROW == 0
    assert most - 2 * burst - ROW <= taken <= most * (1 + 1e-9) + 1e-3


def test_credit_is_whole_samples_in_pieces_and_what_was_not_used_comes_back() -> None:
    clock = [0.0]
    quotas = Quotas(100.0 * ROW, row_bytes=ROW, clock=lambda: clock[0])
    assert quotas.grant("p", 1 << 30) == 100 * ROW
    assert quotas.grant("q", 10 * ROW + 7) == 10 * ROW, "each has a bucket of its own"
    clock[0] = 0.2
    assert quotas.grant("p", 1 << 30) == 0, "not a sliver"
    assert quotas.grant("p", 5 * ROW) == 5 * ROW, "unless it is all that is wanted"
    assert quotas.wait_seconds("p") == pytest.approx(0.1)
    quotas.give_back("p", 40 * ROW)
    assert quotas.grant("p", 1 << 30) == 55 * ROW
    quotas.give_back("p", 1 << 30)
    assert quotas.grant("p", 1 << 30) == 100 * ROW, "never more than a burst"


def test_less_than_a_sample_a_second_is_a_sample_now_and_then() -> None:
    clock = [0.0]
    quotas = Quotas.of(0.1, 1e9, row_bytes=ROW, clock=lambda: clock[0])
    assert quotas is not None
    assert quotas.grant("p", 5 * ROW) == ROW
    assert quotas.wait_seconds("p") == pytest.approx(10.0)
    clock[0] = 10.0
    assert quotas.grant("p", 5 * ROW) == ROW
    assert Quotas.of(None, None, row_bytes=ROW, clock=lambda: 0.0) is None


def test_a_service_holds_each_producer_to_its_rate_and_drops_nothing(tmp_path: Path) -> None:
    rate, rows = 400, 1000
    limits = {"producer_rate_samples_per_second": float(rate)}
    with Daemon(tmp_path, config(tmp_path, stream=limits)).start() as daemon:
        began = time.monotonic()
        with producer(daemon) as one, producer(daemon, "rank-1") as two:
            for start in range(0, rows, 50):
                for each in (one, two):
                    assert each.push(arrays(start, start + 50))
            one.flush(60)
            two.flush(60)
        seconds = time.monotonic() - began
        assert seconds > (rows - rate) / rate - 0.05, "faster than the burst and the rate"
        assert seconds < 2 * rows / rate + 30, "much slower than its rate"
        assert daemon.metric("insitu_producer_throttled_seconds_total", producer="rank-0") > 0.1
        assert daemon.metric("insitu_accepted_samples_total") == 2 * rows
        wait_for(lambda: served.books_balance(daemon), "the books to balance")
        assert SCHEMA.row_bytes == ROW
