"""What is measured of fairness, with few producers for every day and with 256 in the benchmark."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hall import ROW, SCHEMA, Guest, Hall
from insitu.wire.messages import PROTOCOL_VERSION, Data, Hello, Ping

GARBAGE = [b"\x00" * 100, b"\xc1", b"\x93\x05\x01"]


def equal_offer(guests: int, *, warm_up_seconds: float, seconds: float) -> np.ndarray:
    """Rows accepted of each of so many producers that all offer more than is taken."""
    hall = Hall(
        [Guest(f"g{index}") for index in range(guests)],
        ring_rows=32 * guests, trained_rows_per_second=62.5 * guests,
    )  # fmt: skip
    hall.run_for(warm_up_seconds)
    before = np.array([guest.accepted_rows for guest in hall.guests])
    hall.run_for(seconds)
    taken = np.array([guest.accepted_rows for guest in hall.guests]) - before
    assert taken.sum() > 0.97 * 62.5 * guests * seconds, "fair, but at the cost of throughput"
    return taken


@dataclass(frozen=True)
class Company:
    """p99 of the time to acknowledgement, in seconds of the good producers."""

    alone: float
    with_stalled: float
    with_slow: float
    with_hostile: float


def company(guests: int, *, seconds: float) -> Company:
    """The same good producers at nine tenths of what is trained, beside one bad one."""
    return Company(
        _p99(guests, "", seconds),
        _p99(guests, "stalled", seconds),
        _p99(guests, "slow", seconds),
        _p99(guests, "hostile", seconds),
    )


def _p99(guests: int, bad: str, seconds: float) -> float:
    trained = 62.5 * guests
    rate = 0.9 * trained / guests
    good = [Guest(f"g{index}", rows_per_second=rate) for index in range(guests)]
    for index, guest in enumerate(good):
        guest.start_at(100.0 + index * 8 / rate / guests)
    other = Guest(bad or "good", rows_per_second=rate, every_ticks=300 if bad == "slow" else 1)
    hall = Hall(
        [*good, other], ring_rows=32 * guests, trained_rows_per_second=trained,
        turn_messages=max(8, guests // 4),
    )  # fmt: skip
    hall.run_for(1.0)
    other.stalled = bad in ("stalled", "hostile")
    if bad == "hostile":
        hall.flood = lambda: _flood(hall)
    for guest in good:
        guest.latencies.clear()
    hall.run_for(seconds)
    latencies = np.concatenate([guest.latencies for guest in good])
    assert len(latencies) > 0.9 * rate * guests * seconds / 8, "the good ones were held up"
    return float(np.quantile(latencies, 0.99))


def _flood(hall: Hall) -> None:
    """Every tick: garbage, greetings, data of a session that it has not, and far beyond credit."""
    for frame in GARBAGE:
        hall.send_frames("hostile", [frame])
    if hall.backlog("hostile") > 100:
        return
    hello = Hello(PROTOCOL_VERSION, "hostile", 1, "s", SCHEMA, SCHEMA.crc32, (), "", "", "", 1, 0)
    hall.send("hostile", hello)
    session = hall.session_of("hostile")
    for seq in (1, 2, 3, 10**6):
        payload = b"\0" * (64 * ROW)
        data = Data(
            session, seq, 0, 1, 64, 0, len(payload), 0, 0, 1, None, "", None, 0, None, payload
        )
        hall.send("hostile", data)
    hall.send("hostile", Ping(session, 1, 1 << 40, 0, 0, 0.0))
