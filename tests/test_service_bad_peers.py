"""Peers that are broken, hostile, too many or dead, against a real service."""

from __future__ import annotations

import contextlib
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgpack
import numpy as np
import pytest
import zmq

from bad_input import (
    SCHEMA,
    TIMEOUT_SECONDS,
    Hostile,
    assert_balanced,
    assert_lives,
    config,
    data,
    honest,
    log_says,
    payload_of,
    samples,
)
from daemon import Daemon, wait_for
from insitu.errors import ProducerError
from insitu.wire.codec import encode
from insitu.wire.messages import (
    Ack,
    Bye,
    Fenced,
    Nack,
    NackCode,
    NoSession,
    RefusalCode,
    Refused,
    Welcome,
)
from insitu_producers import Producer

MOST_PRODUCERS = 6
TOKEN = "correct-horse"

#: a producer that sends half of a batch and then waits to be killed
HALF_A_BATCH = """
import sys
sys.path[:0] = sys.argv[2:]
from bad_input import Hostile, data, first_half, payload_of, samples
peer = Hostile(sys.argv[1])
welcome = peer.greet("doomed", token="correct-horse")
payload = payload_of(samples(100))
peer.send(data(welcome.session, 1, payload_of(samples(4)), task="short"))
peer.send(first_half(data(welcome.session, 2, payload, first_row=4, task="short")))
print("half is sent", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One service for all of them; whatever a test does, it must be alive for the next."""
    directory = tmp_path_factory.mktemp("peers")
    (directory / "token").write_text(TOKEN + "\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    endpoints = [f"ipc://{directory}/ingest", f"tcp://127.0.0.1:{port}"]
    stream = {
        "max_producers": MOST_PRODUCERS,
        # everything bad is to be looked at, however much of it there is
        "max_hellos_per_second": 1000,
        "max_wasted_messages_per_second": 1_000_000,
        "token_file": str(directory / "token"),
        "endpoints": endpoints,
    }
    with Daemon(directory, config(directory, stream=stream)) as daemon:
        yield daemon.start()
        assert daemon.stop() == 0
        assert not log_says(daemon, "fault in insitu")
        assert TOKEN not in daemon.log()


def refusals(daemon: Daemon, reason: str) -> float:
    return daemon.metric("insitu_refused_sessions_total", reason=reason)


def ignored(daemon: Daemon, reason: str) -> float:
    return daemon.metric("insitu_refused_messages_total", reason=reason)


def lives(daemon: Daemon) -> None:
    """As `assert_lives`, with the token, and once there is a place free."""
    wait_for(lambda: daemon.metric("insitu_sessions") < MOST_PRODUCERS, "a place")
    assert_lives(daemon, token=TOKEN)


def test_an_unknown_stream_is_named_with_those_that_exist(daemon: Daemon) -> None:
    before = refusals(daemon, "stream")
    with Producer(
        daemon.endpoint, stream="lap", producer_id="lost", token=TOKEN, linger_seconds=0
    ) as producer:
        producer.push(samples(2))
        with pytest.raises(ProducerError, match=r"'lap'.*allowed: lab"):
            producer.flush(timeout_seconds=20.0)
        with pytest.raises(ProducerError, match="'lap'"):
            producer.push(samples(2))
    assert refusals(daemon, "stream") == before + 1
    assert log_says(daemon, "there is no stream 'lap' here")
    lives(daemon)


@pytest.mark.parametrize("token", ["", "wrong", "correct-hors\N{LATIN SMALL LETTER E WITH ACUTE}"])
def test_a_wrong_token_is_refused(daemon: Daemon, token: str) -> None:
    before = refusals(daemon, "token")
    with honest(daemon, "intruder", token=token) as producer:
        producer.push(samples(2))
        with pytest.raises(ProducerError, match="token is missing or wrong"):
            producer.flush(timeout_seconds=20.0)
    assert refusals(daemon, "token") == before + 1
    lives(daemon)


def test_another_protocol_version_is_refused_by_number(daemon: Daemon) -> None:
    before = refusals(daemon, "version")
    with Hostile(daemon.endpoint) as peer:
        peer.hello("from the future", version=7)
        refused = peer.expect(Refused)
        assert refused.code == RefusalCode.VERSION
        assert "version 7" in refused.text
        assert "version 1" in refused.text
        assert "install the same release" in refused.text
    assert refusals(daemon, "version") == before + 1
    lives(daemon)


def junk() -> list[list[bytes]]:
    """Messages that are none: random frames and counts, halves of good ones, absurd arrays."""
    source = random.Random(20)
    hello = msgpack.packb([1, 1, "a", 1, "lab"])
    payload = payload_of(samples(2))
    header = bytes(encode(data(1, 1, payload))[0])
    messages = [[source.randbytes(source.randrange(1, 200))] for _ in range(40)]
    messages += [[source.randbytes(9)] * count for count in (2, 3, 5, 50)]
    messages += [[header[:cut]] for cut in range(1, len(header), 3)]
    messages += [[header[:-1], payload], [header], [header, payload, payload], [header, b""]]
    messages += [[b""], [b"", b""], [b"\xc1"], [b"\x90"], [b"\x91\x63"], [hello], [b"\xdd" * 5]]
    messages += [[b"\x91" * 100_000], [msgpack.packb([4, "x" * 1_000_000])]]
    messages += [[msgpack.packb([[1], 2])], [msgpack.packb({1: 2})], [msgpack.packb([True, 1])]]
    return messages


def test_garbage_is_counted_and_cannot_flood_the_log(daemon: Daemon) -> None:
    before, lines = ignored(daemon, "malformed"), len(daemon.log_lines())
    messages = junk() * 20
    with Hostile(daemon.endpoint) as peer:
        for message in messages:
            peer.frames(*message)
        refused = peer.expect(Refused)
        assert refused.code == RefusalCode.MALFORMED
        assert "producer's fault" in refused.text
        handled = lambda: (  # noqa: E731
            ignored(daemon, "malformed") + ignored(daemon, "no_session") >= before + len(messages)
        )
        wait_for(handled, "all of it to be read")
    assert len(daemon.log_lines()) - lines < 10
    assert log_says(daemon, "not understood")
    lives(daemon)


def test_messages_of_a_service_and_of_strangers_are_ignored(daemon: Daemon) -> None:
    before = ignored(daemon, "unexpected"), ignored(daemon, "no_session")
    with Hostile(daemon.endpoint) as peer:
        peer.send(Ack(1, 1, 1, 1, 1, 1))
        peer.send(data(987, 1, payload_of(samples(2))))
        assert peer.expect(NoSession).session == 987
        peer.send(Bye(988, 0, 0, 0, 0.0))
        assert peer.expect(NoSession).session == 988
    assert ignored(daemon, "unexpected") == before[0] + 1
    assert ignored(daemon, "no_session") == before[1] + 2
    lives(daemon)


def test_nobody_speaks_for_the_session_of_another(daemon: Daemon) -> None:
    with Hostile(daemon.endpoint) as owner, Hostile(daemon.endpoint) as thief:
        session = owner.greet("owner", token=TOKEN).session
        thief.send(data(session, 1, payload_of(samples(2))))
        assert thief.expect(NoSession).session == session
        owner.send(data(session, 1, payload_of(samples(2))))
        assert owner.expect(Ack).accepted == 1
        owner.send(Bye(session, 1, 2, 0, 0.0))
        owner.expect(Bye)
    lives(daemon)


def test_a_producer_that_also_sends_garbage_keeps_its_session(daemon: Daemon) -> None:
    with Hostile(daemon.endpoint) as peer:
        session = peer.greet("stutters", token=TOKEN).session
        for message in junk()[:60]:
            peer.frames(*message)
        peer.send(data(session, 1, payload_of(samples(2))))
        assert peer.expect(Ack).accepted == 1
        peer.send(Bye(session, 1, 2, 0, 0.0))
        peer.expect(Bye)
    lives(daemon)


def test_of_two_producers_with_one_id_the_newer_stays(daemon: Daemon) -> None:
    before = daemon.metric("insitu_fenced_sessions_total")
    with honest(daemon, "twin", token=TOKEN, epoch=1) as older:
        older.push(samples(4))
        older.flush(timeout_seconds=20.0)
        with honest(daemon, "twin", token=TOKEN, epoch=2) as newer:
            newer.push(samples(4))
            newer.flush(timeout_seconds=20.0)
            with pytest.raises(ProducerError, match=r"newer producer took over.*'twin'"):
                _push_until_it_raises(older)
            newer.push(samples(4))
            newer.flush(timeout_seconds=20.0)
            assert newer.stats().acknowledged_rows == 8
    assert daemon.metric("insitu_fenced_sessions_total") == before + 1
    with Hostile(daemon.endpoint) as late:
        late.hello("twin", token=TOKEN, epoch=1)
        assert late.expect(Fenced).epoch == 2
    assert log_says(daemon, "the older one is fenced")
    lives(daemon)


def _push_until_it_raises(producer: Producer) -> None:
    """The word comes over the network: the push after it raises."""
    wait_for(lambda: producer.stats().state == "fenced", "FENCED to arrive")
    producer.push(samples(1))


def test_one_producer_too_many_waits_at_the_door(daemon: Daemon) -> None:
    before = refusals(daemon, "limit")
    wait_for(lambda: daemon.metric("insitu_sessions") == 0, "the guests of other tests to go")
    crowd = [honest(daemon, f"crowd-{i}", token=TOKEN) for i in range(MOST_PRODUCERS)]
    for member in crowd:
        member.push(samples(1))
        member.flush(timeout_seconds=20.0)
    with honest(daemon, "one too many", token=TOKEN) as late:
        late.push(samples(3))
        wait_for(lambda: refusals(daemon, "limit") > before, "its refusal")
        wait_for(lambda: "max_producers" in late.stats().last_error, "the reason")
        for member in crowd:
            member.close()
        late.flush(timeout_seconds=20.0)  # it has asked again by itself
        assert late.stats().acknowledged_rows == 3
    lives(daemon)


def test_a_producer_killed_in_a_batch_gives_its_room_back_and_its_task_ends(
    daemon: Daemon,
) -> None:
    free, ended = (
        daemon.metric("insitu_buffer_free_samples"),
        daemon.metric("insitu_ended_tasks_total"),
    )
    expired = daemon.metric("insitu_expired_sessions_total")
    broken = daemon.metric("insitu_broken_connections_total", reason="no_bye")
    here = Path(__file__).parent
    with subprocess.Popen(
        [sys.executable, "-c", HALF_A_BATCH, daemon.endpoint, str(here), *sys.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as doomed:
        assert doomed.stdout is not None
        assert doomed.stdout.readline() == b"half is sent\n"
        wait_for(
            lambda: daemon.metric("insitu_buffer_free_samples") <= free - 100, "its reservation"
        )
        doomed.kill()
    daemon.wait_metric("insitu_broken_connections_total", broken + 1, reason="no_bye")
    daemon.wait_metric("insitu_expired_sessions_total", expired + 1)
    daemon.wait_metric("insitu_buffer_free_samples", free)
    daemon.wait_metric("insitu_ended_tasks_total", ended + 1)
    assert log_says(daemon, f"silent for {TIMEOUT_SECONDS:.0f} s")
    assert log_says(daemon, "'doomed' ended without BYE")
    assert_balanced(daemon)
    lives(daemon)


def test_a_frame_beyond_the_limit_of_the_socket_cuts_only_its_own_connection(
    daemon: Daemon,
) -> None:
    before = daemon.metric("insitu_broken_connections_total", reason="no_bye")
    received = daemon.metric("insitu_received_samples_total")
    with Hostile(daemon.endpoint) as peer:
        session = peer.greet("enormous", token=TOKEN).session
        frame = bytes(200 << 20)
        header = bytes(encode(data(session, 1, bytes(SCHEMA.row_bytes)))[0])
        peer.socket.send_multipart([header, frame], copy=False)
        daemon.wait_metric("insitu_broken_connections_total", before + 1, reason="no_bye")
    assert log_says(daemon, "a frame of more than 4194304 bytes")
    assert daemon.metric("insitu_received_samples_total") == received
    lives(daemon)


def test_a_browser_at_the_port_is_told_from_a_producer(daemon: Daemon) -> None:
    before = daemon.metric("insitu_broken_connections_total", reason="no_session")
    _, port = daemon.config["stream"]["endpoints"][1].rsplit(":", 1)
    with socket.create_connection(("127.0.0.1", int(port)), timeout=10) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\nHost: insitu\r\n\r\n" + bytes(64))
        stranger.settimeout(10)
        with contextlib.suppress(ConnectionResetError):
            while stranger.recv(4096):
                pass  # until the service hangs up
    daemon.wait_metric("insitu_broken_connections_total", before + 1, reason="no_session")
    wait_for(lambda: log_says(daemon, "does not speak ZeroMQ"), "a line about it")
    lives(daemon)


def test_fragments_out_of_order_are_asked_for_again(daemon: Daemon) -> None:
    payload = payload_of(samples(4))
    with Hostile(daemon.endpoint) as peer:
        session = peer.greet("shuffled", token=TOKEN).session
        peer.send(data(session, 3, payload))
        nack = peer.expect(Nack)
        assert (nack.code, nack.seq, nack.resend) == (NackCode.GAP, 1, True)
        peer.send(data(session, 1, payload))
        assert peer.expect(Ack).accepted == 1
        peer.send(Bye(session, 1, 4, 0, 0.0))
        peer.expect(Bye)
    lives(daemon)


def test_a_peer_that_never_reads_its_answers_holds_nobody_up(daemon: Daemon) -> None:
    """Its answers are dropped and counted; others are served meanwhile."""
    with Hostile(daemon.endpoint) as deaf:
        deaf.socket.setsockopt(zmq.RCVHWM, 1)
        session = deaf.greet("deaf", token=TOKEN).session
        for _ in range(5000):
            deaf.ping(session)
        lives(daemon)


def test_many_hellos_of_one_peer_leave_one_session(daemon: Daemon) -> None:
    with Hostile(daemon.endpoint) as peer:
        for _ in range(50):
            peer.hello("eager", token=TOKEN)
        sessions = [peer.expect(Welcome).session for _ in range(50)]
        peer.send(data(sessions[0], 1, payload_of(samples(1))))
        assert peer.expect(NoSession).session == sessions[0]
        peer.send(Bye(sessions[-1], 0, 0, 0, 0.0))
        peer.expect(Bye)
    assert np.all(np.diff(sessions) > 0)
    lives(daemon)
