"""Who sends too much that leads to nothing is not listened to for a while; nobody else suffers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hall import Guest, Hall
from insitu.wire.codec import encode
from insitu.wire.messages import Ping
from insitu_service.security.flood_gate import FloodGate

MOMENTS = st.lists(st.floats(0.0, 0.5), min_size=1, max_size=300)


@given(gaps=MOMENTS, per_second=st.integers(1, 50))
def test_never_more_is_listened_to_than_the_rate_allows(gaps: list[float], per_second: int) -> None:
    gate, now, heard = FloodGate(per_second, most_peers=4), 0.0, 0
    for gap in gaps:
        now += gap
        if not gate.is_shut(b"loud", now):
            heard += 1
            gate.wasted(b"loud", now)
        assert not gate.is_shut(b"quiet", now)
    # the burst, the rate, and the one message a second that shuts the gate again
    assert heard <= per_second * (1.0 + now) + now + 1.0


@given(gaps=st.lists(st.floats(0.26, 2.0), max_size=100))
def test_who_keeps_to_the_rate_is_always_listened_to(gaps: list[float]) -> None:
    gate, now = FloodGate(4.0, most_peers=4), 0.0
    for gap in gaps:
        now += gap
        assert not gate.is_shut(b"slow", now)
        assert not gate.wasted(b"slow", now)


def test_who_goes_on_is_shut_out_for_longer_and_who_stops_is_forgiven() -> None:
    gate, now = FloodGate(1.0, most_peers=4), 0.0

    def shut_seconds() -> float:
        """Waste until the gate shuts; for how long it does."""
        nonlocal now
        while not gate.wasted(b"loud", now):
            pass
        began = now
        while gate.is_shut(b"loud", now):
            now += 0.125
        return now - began

    assert [shut_seconds() for _ in range(8)] == [1, 2, 4, 8, 16, 32, 64, 64]
    now += 65.0
    assert shut_seconds() == 1


def test_of_many_loud_peers_only_the_last_are_remembered() -> None:
    gate = FloodGate(1.0, most_peers=10)
    for number in range(200):
        peer = b"%d" % number
        gate.wasted(peer, 0.0)
        assert gate.wasted(peer, 0.0)
    assert len(gate._shut) == 10
    assert gate.is_shut(b"199", 0.5)
    assert not gate.is_shut(b"1", 0.5)


def test_a_flood_is_counted_and_let_go_of_and_the_others_go_on() -> None:
    good = [Guest(f"g{index}", rows_per_second=100.0) for index in range(3)]
    hall = Hall(good, ring_rows=128, trained_rows_per_second=1000.0, gate=FloodGate(20.0, 8))
    hall.run_for(0.5)
    for number in range(500):
        hall.send_frames("g0-flood", [b"\xc1"])
        hall.send("g1", Ping(hall.session_of("g1"), number, 0, 0, 0, 0.0))
    hall.run_for(0.5)
    refused = hall.intake.refused_messages
    assert refused["malformed"] == 21  # and one that found the gate still open
    assert refused["flood"] > 900
    before = [guest.accepted_rows for guest in good]
    hall.run_for(2.0)
    taken = [guest.accepted_rows - had for guest, had in zip(good, before, strict=True)]
    assert min(taken) >= 180, "who was shut out for a moment came back and lost nothing"


def test_a_producer_that_asks_for_credit_again_and_again_is_no_flood() -> None:
    """PING when credit has run out, then data: that is how a stream in full flow asks."""
    greedy = [Guest(f"g{index}", rows=1) for index in range(2)]
    hall = Hall(greedy, ring_rows=8, trained_rows_per_second=4000.0, gate=FloodGate(5.0, 8))
    hall.run_for(3.0)
    assert hall.intake.refused_messages["flood"] == 0
    assert min(guest.accepted_rows for guest in greedy) > 1000


def test_a_message_of_the_flood_is_not_even_decoded() -> None:
    hall = Hall([Guest("good")], ring_rows=64, trained_rows_per_second=100.0, gate=FloodGate(1, 8))
    for _ in range(3):
        hall.send_frames("loud", [b"\xc1"])
    hall.run_for(0.01)
    messages = hall.intake.messages
    hall.send_frames("loud", [bytes(frame) for frame in encode(Ping(1, 1, 0, 0, 0, 0.0))])
    hall.run_for(0.01)
    assert hall.intake.refused_messages["no_session"] == 0
    assert hall.intake.messages - messages <= 5  # the good one's
