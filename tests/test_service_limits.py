"""The limits of peers that nobody knows, each held while a good producer goes on."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest
import zmq

from bad_input import Hostile
from daemon import Daemon, wait_for
from insitu.wire.codec import encode
from insitu.wire.messages import PROTOCOL_VERSION, Hello, RefusalCode, Refused
from keyed import free_port
from raw_peer import RawPeer, frame
from served import SCHEMA, books_balance, config, producer, push

MOST_CONNECTIONS = 12
HANDSHAKES_PER_SECOND = 20.0
STRANGER_BYTES = 2 << 20
WASTED_PER_SECOND = 50


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    directory = tmp_path_factory.mktemp("limits")
    stream = {
        "endpoints": [f"tcp://127.0.0.1:{free_port()}"],
        "max_producers": 8,
        "session_timeout_seconds": 3.0,
        "max_connections": MOST_CONNECTIONS,
        "max_handshakes_per_second": HANDSHAKES_PER_SECOND,
        "max_hellos_per_second": 5,
        "max_wasted_messages_per_second": WASTED_PER_SECOND,
        "greeting_seconds": 1.5,
        "max_stranger_bytes": STRANGER_BYTES,
        "max_message_bytes": 2 << 20,
        "max_queued_messages": 16,
    }
    with Daemon(directory, config(directory, stream=stream)) as daemon:
        yield daemon.start()
        assert daemon.stop() == 0
        assert "fault in insitu" not in daemon.log()


@pytest.fixture(autouse=True)
def good_one(daemon: Daemon) -> Iterator[None]:
    """Pushes all the time, loses nothing and is never cut; afterwards the books balance."""
    done, pushed = threading.Event(), 0
    broken = daemon.metric("insitu_broken_connections_total", reason="no_bye")
    good = producer(daemon, "good", when_full="block", epoch=None)
    good.wait_connected(30.0)

    def work() -> None:
        nonlocal pushed
        while not done.is_set():
            push(good, pushed, pushed + 20)
            pushed += 20
            done.wait(0.005)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        with good:
            good.flush(30.0)
            assert good.stats().acknowledged_rows == pushed > 0
            assert good.stats().dropped_rows == {}
    wait_for(lambda: books_balance(daemon), "books that balance")
    hostile = daemon.metric("insitu_cut_connections_total", reason="too_much")
    assert daemon.metric("insitu_broken_connections_total", reason="no_bye") - broken <= hostile


def cut(daemon: Daemon, reason: str) -> float:
    return daemon.metric("insitu_cut_connections_total", reason=reason)


def test_connections_beyond_the_limit_cost_the_oldest_stranger_its_place(daemon: Daemon) -> None:
    before = cut(daemon, "too_many")
    with contextlib.ExitStack() as stack:
        crowd = [
            stack.enter_context(RawPeer(daemon.endpoint, "nothing"))
            for _ in range(3 * MOST_CONNECTIONS)
        ]
        wait_for(lambda: cut(daemon, "too_many") >= before + 2 * MOST_CONNECTIONS, "the cuts")
        wait_for(crowd[0].is_cut, "the oldest to be cut")
        assert daemon.metric("insitu_connections") <= MOST_CONNECTIONS
    wait_for(lambda: daemon.metric("insitu_connections") <= 1, "the crowd to go")


@pytest.mark.parametrize("shakes", ["nothing", "greeting", "ready"])
def test_a_stranger_that_says_nothing_is_cut(daemon: Daemon, shakes: str) -> None:
    before = cut(daemon, "silent") + daemon.metric(
        "insitu_refused_handshakes_total", reason="unfinished"
    )
    with RawPeer(daemon.endpoint, shakes) as silent:
        wait_for(silent.is_cut, "it to be cut")
    wait_for(
        lambda: (
            cut(daemon, "silent")
            + daemon.metric("insitu_refused_handshakes_total", reason="unfinished")
            > before
        ),
        "its count",
    )


def hello_of(producer_id: str) -> bytes:
    """HELLO as bytes."""
    hello = Hello(
        PROTOCOL_VERSION, producer_id, 1, "small", SCHEMA, SCHEMA.crc32, ("checksum:crc32",),
        "", "", "", 1, 0,
    )  # fmt: skip
    return bytes(encode(hello)[0])


def sent_until_cut(peer: RawPeer, most_bytes: int) -> int:
    """Sends one message that never ends; how many bytes went out."""
    part, sent, pause = frame(bytes(64 << 10), more=True), 0, threading.Event()
    with contextlib.suppress(OSError):
        while sent < most_bytes:
            peer.socket.sendall(part)
            sent += len(part)
            pause.wait(0.001)  # as a network of some 60 MB/s
    return sent


def test_a_message_that_never_ends_is_cut_before_it_fills_the_memory(daemon: Daemon) -> None:
    """ZeroMQ gathers all parts of a message before it shows the first."""
    before = cut(daemon, "too_much")
    with RawPeer(daemon.endpoint) as endless:
        sent = sent_until_cut(endless, 400 << 20)
    assert STRANGER_BYTES < sent < 100 << 20
    wait_for(lambda: cut(daemon, "too_much") == before + 1, "its count")


def test_a_session_does_not_allow_a_message_that_never_ends(daemon: Daemon) -> None:
    before = cut(daemon, "too_much")
    with RawPeer(daemon.endpoint) as endless:
        endless.socket.sendall(frame(hello_of("endless"), more=False))
        wait_for(lambda: daemon.metric("insitu_sessions") == 2, "its session")
        sent = sent_until_cut(endless, 400 << 20)
    assert STRANGER_BYTES < sent < 100 << 20
    wait_for(lambda: cut(daemon, "too_much") == before + 1, "its count")


def test_one_part_beyond_the_limit_is_not_even_gathered(daemon: Daemon) -> None:
    before = daemon.metric("insitu_broken_connections_total", reason="no_session")
    with RawPeer(daemon.endpoint) as large:
        with contextlib.suppress(OSError):
            large.socket.sendall(b"\x02" + (1 << 40).to_bytes(8, "big") + bytes(1024))
        wait_for(large.is_cut, "it to be cut")
    wait_for(
        lambda: daemon.metric("insitu_broken_connections_total", reason="no_session") > before,
        "its count",
    )


def test_greetings_of_one_connection_are_limited(daemon: Daemon) -> None:
    before = daemon.metric("insitu_refused_sessions_total", reason="rate")
    with Hostile(daemon.endpoint) as eager:
        for _ in range(30):
            eager.hello("eager", stream="small", schema=SCHEMA)
        refused = eager.expect(Refused)
        assert (refused.code, refused.retry) == (RefusalCode.RATE, True)
        wait_for(
            lambda: daemon.metric("insitu_refused_sessions_total", reason="rate") >= before + 20,
            "the rest",
        )
    wait_for(lambda: daemon.metric("insitu_sessions") == 1, "its session to expire", 60.0)


def test_who_sends_too_much_to_no_purpose_is_not_listened_to_for_a_while(daemon: Daemon) -> None:
    refused = lambda reason: daemon.metric("insitu_refused_messages_total", reason=reason)  # noqa: E731
    before = refused("flood")
    with Hostile(daemon.endpoint) as loud:
        for _ in range(10 * WASTED_PER_SECOND):
            loud.frames(b"\xc1")
        wait_for(lambda: refused("flood") > before + WASTED_PER_SECOND, "the count of the flood")
        wait_for(lambda: heard_again(daemon, loud), "it to be listened to again")


def heard_again(daemon: Daemon, peer: Hostile) -> bool:
    """It greets, and is let in."""
    peer.hello("loud", stream="small", schema=SCHEMA)
    return daemon.metric("insitu_sessions") == 2


def test_connections_a_second_are_limited_and_the_good_ones_try_again(daemon: Daemon) -> None:
    before = daemon.metric("insitu_refused_handshakes_total", reason="rate")
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    sockets = []
    try:
        while daemon.metric("insitu_refused_handshakes_total", reason="rate") == before:
            for _ in range(10):
                dealer = context.socket(zmq.DEALER)
                dealer.connect(daemon.endpoint)
                sockets.append(dealer)
            for dealer in sockets[:-10]:
                dealer.close(linger=0)
            del sockets[:-10]
        with producer(daemon, "late", epoch=None) as late:
            push(late, 0, 20)
            late.flush(60.0)
    finally:
        context.destroy(linger=0)
