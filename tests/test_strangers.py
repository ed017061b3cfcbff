"""Which connections without a session must end; and how many peers are remembered."""

from __future__ import annotations

import socket

from daemon import wait_for
from insitu_service.security.rate_limit import PeerRateLimits
from insitu_service.security.strangers import Strangers, received_bytes

#: descriptors that no process has open
ONE, TWO = 1_000_001, 1_000_002


def test_of_two_thousand_bad_peers_only_the_last_are_remembered() -> None:
    limits = PeerRateLimits(1.0, most_peers=100)
    assert all(limits.allows(b"%d" % number, 0.0) for number in range(2000))
    assert len(limits._limits) == 100
    assert not limits.allows(b"1999", 0.0)
    assert limits.allows(b"1999", 1.0)


def test_strangers_are_excused_while_we_looked_away() -> None:
    strangers = Strangers(most=10, greeting_seconds=5.0, most_bytes=1000)
    strangers.accepted(ONE, 0.0)
    assert strangers.to_cut({}, 4.0) == []
    strangers.excuse(100.0)
    assert strangers.to_cut({}, 104.0) == []
    assert strangers.to_cut({}, 106.0) == [(ONE, "silent")]
    assert len(strangers) == 0


def test_what_came_while_we_looked_away_is_not_held_against_anybody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = socket.create_connection(listener.getsockname())
        receiver, _ = listener.accept()
        with sender, receiver:
            strangers = Strangers(most=10, greeting_seconds=50.0, most_bytes=1000)
            strangers.accepted(receiver.fileno(), 0.0)
            sender.sendall(bytes(5000))
            wait_for(lambda: received_bytes(receiver.fileno()) == 5000, "the bytes")
            strangers.excuse(3.0)
            assert strangers.to_cut({}, 4.0) == []
            sender.sendall(bytes(900))
            wait_for(lambda: received_bytes(receiver.fileno()) == 5900, "the bytes")
            assert strangers.to_cut({}, 5.0) == []
            sender.sendall(bytes(200))
            wait_for(lambda: received_bytes(receiver.fileno()) == 6100, "the bytes")
            assert strangers.to_cut({}, 6.0) == [(receiver.fileno(), "too_much")]


def test_a_session_is_no_stranger_until_it_ends() -> None:
    strangers = Strangers(most=1, greeting_seconds=5.0, most_bytes=1000)
    strangers.accepted(ONE, 0.0)
    assert strangers.to_cut({ONE: 1.0}, 1.0) == []
    assert strangers.to_cut({ONE: 1.0}, 100.0) == []
    strangers.accepted(TWO, 100.0)
    assert strangers.to_cut({ONE: 1.0}, 101.0) == [(TWO, "too_many")]
    assert strangers.to_cut({}, 102.0) == []
    assert strangers.to_cut({}, 108.0) == [(ONE, "silent")]


def test_what_came_by_credit_while_we_were_busy_is_not_too_much() -> None:
    """A slow disk holds the ingest thread up while ZeroMQ goes on receiving."""
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, socket.create_connection(listener.getsockname()) as theirs:
        ours, _ = listener.accept()
        with ours:
            descriptor = ours.fileno()
            strangers = Strangers(most=10, greeting_seconds=5.0, most_bytes=1000)
            strangers.accepted(descriptor, 0.0)
            heard = {descriptor: 1.0}
            assert strangers.to_cut(heard, 1.0) == []
            theirs.sendall(bytes(5000))
            assert ours.recv(5000, socket.MSG_WAITALL)
            assert strangers.to_cut(heard, 2.0, {descriptor: 4000}) == []
            assert strangers.to_cut(heard, 2.0, {descriptor: 3000}) == [(descriptor, "too_much")]
