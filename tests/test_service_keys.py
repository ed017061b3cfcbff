"""Keys, on real sockets and processes: who may come in, as whom, and what the others learn."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zmq

from bad_input import Hostile
from daemon import Daemon, wait_for
from insitu.errors import ProducerError
from insitu_producers import Producer, WaitTimeoutError
from insitu_producers.sources.feed import Push, argument_parser, feed
from insitu_service.cli.run import run
from keyed import Pair, entry, keyed_config, keyed_producer, write_clients
from raw_peer import GREETING
from served import SCHEMA, arrays, producer, push, wait_log

SERVER, ALICE, BOB, STRANGER = (Pair.made() for _ in range(4))
TOKEN = "correct-horse-battery"
#: what a producer without a key reads: who finds it first hangs up
NO_KEY = re.compile("asks for keys|hangs up before it has greeted")
CLIENTS = (
    entry("alice", ALICE.public, ["rank-*"], streams=["small"]),
    entry("bob", BOB.public, ["camera"]),
)
#: what no refusal may tell
PRIVATE = ("rank-", "secret-stream", "alice", "bob", "camera", ALICE.public, BOB.public, TOKEN)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="module")
def daemon(directory: Path) -> Iterator[Daemon]:
    token = directory / "token"
    token.touch(mode=0o600)
    token.write_text(TOKEN)
    made = keyed_config(directory, SERVER, CLIENTS, token_file=str(token))
    made["service"]["log_level"] = "debug"
    with Daemon(directory, made) as daemon:
        yield daemon.start()
        assert daemon.stop() == 0
        assert "fault in insitu" not in daemon.log()
        for secret in (SERVER.secret, ALICE.secret, BOB.secret, STRANGER.secret, TOKEN):
            assert secret not in daemon.log()


def refused(daemon: Daemon, reason: str) -> float:
    return daemon.metric("insitu_refused_handshakes_total", reason=reason)


def lives(daemon: Daemon, directory: Path) -> None:
    """A client with a key of its own is served."""
    before = daemon.metric("insitu_trained_samples_total", source="fresh")
    epoch = time.time_ns()
    with keyed_producer(
        daemon, directory, SERVER.public, ALICE, "rank-0", token=TOKEN, epoch=epoch
    ) as alice:
        push(alice, 0, 40)
        alice.flush(30.0)
        assert alice.stats().acknowledged_rows == 40
    daemon.wait_metric("insitu_trained_samples_total", before + 40, source="fresh")


def test_a_key_of_the_list_comes_in_and_is_named(daemon: Daemon, directory: Path) -> None:
    lives(daemon, directory)
    assert wait_log(daemon, "client alice connects from 127.0.0.1")


def test_without_a_key_nobody_comes_in(daemon: Daemon, directory: Path) -> None:
    before = refused(daemon, "no_key") + refused(daemon, "unfinished")
    with producer(daemon, "rank-1", token=TOKEN, linger_seconds=0) as bare:
        wait_for(lambda: NO_KEY.search(bare.stats().last_error), "the reason")
        with pytest.raises(WaitTimeoutError, match=NO_KEY) as told:
            bare.wait_connected(0.1)
    # either side may find it first and hang up
    wait_for(lambda: refused(daemon, "no_key") + refused(daemon, "unfinished") > before, "a count")
    assert not [word for word in PRIVATE if word in str(told.value)]
    assert daemon.metric("insitu_sessions") == 0
    lives(daemon, directory)


def test_a_peer_that_insists_on_no_encryption_is_cut_off(daemon: Daemon, directory: Path) -> None:
    before = refused(daemon, "no_key")
    host, port = daemon.endpoint.removeprefix("tcp://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as plain:
        plain.sendall(GREETING)
        said = b""
        with contextlib.suppress(ConnectionResetError):
            while data := plain.recv(4096):
                said += data
    assert len(said) <= 64  # ZeroMQ's greeting and nothing more
    assert not [word for word in PRIVATE if word.encode() in said]
    wait_for(lambda: refused(daemon, "no_key") == before + 1, "it to be counted")
    lives(daemon, directory)


def test_with_another_service_s_key_nobody_comes_in(daemon: Daemon, directory: Path) -> None:
    before = refused(daemon, "wrong_key")
    other = Pair.made().public
    with keyed_producer(
        daemon, directory, other, ALICE, "rank-1", token=TOKEN, linger_seconds=0
    ) as wrong:
        wait_for(lambda: "hangs up" in wrong.stats().last_error, "the reason")
    assert refused(daemon, "wrong_key") > before
    assert daemon.metric("insitu_sessions") == 0
    lives(daemon, directory)


def test_a_key_that_is_not_on_the_list_is_refused(daemon: Daemon, directory: Path) -> None:
    before = refused(daemon, "unknown_key")
    with keyed_producer(
        daemon, directory, SERVER.public, STRANGER, "rank-1", token=TOKEN, linger_seconds=0
    ) as unknown:
        wait_for(lambda: "does not admit" in unknown.stats().last_error, "the reason")
        with pytest.raises(WaitTimeoutError, match="does not admit the key") as told:
            unknown.wait_connected(0.1)
    assert refused(daemon, "unknown_key") > before
    assert not [word for word in PRIVATE if word in str(told.value)]
    assert STRANGER.public not in daemon.log()
    lives(daemon, directory)


@pytest.mark.parametrize(
    ("client", "producer_id", "stream"),
    [
        (ALICE, "camera", "small"),
        (BOB, "rank-0", "small"),
        (BOB, "camera-2", "small"),
        (ALICE, "rank-7", "secret-stream"),
        (ALICE, "rank-7", "no-such-stream"),
    ],
    ids=["another's", "another's, the other way", "almost one's own", "stream", "unknown stream"],
)
def test_a_key_speaks_for_its_own_producers_and_streams_alone(
    daemon: Daemon, directory: Path, client: Pair, producer_id: str, stream: str
) -> None:
    before = daemon.metric("insitu_refused_sessions_total", reason="identity")
    with keyed_producer(
        daemon, directory, SERVER.public, client, producer_id, stream=stream, token=TOKEN
    ) as thief:
        with pytest.raises(ProducerError, match="identity") as told:
            thief.wait_connected(20.0)
        with pytest.raises(ProducerError, match="identity"):
            thief.push(arrays(0, 2))
    said = str(told.value).replace(repr(producer_id), "").replace(repr(stream), "")
    assert not [word for word in PRIVATE if word in said]
    assert daemon.metric("insitu_refused_sessions_total", reason="identity") == before + 1
    assert daemon.metric("insitu_sessions") == 0
    lives(daemon, directory)


def test_a_key_does_not_replace_the_token(daemon: Daemon, directory: Path) -> None:
    before = daemon.metric("insitu_refused_sessions_total", reason="token")
    with (
        keyed_producer(daemon, directory, SERVER.public, ALICE, "rank-0", token="x") as tokenless,
        pytest.raises(ProducerError, match="token is missing or wrong") as told,
    ):
        tokenless.wait_connected(20.0)
    assert not [word for word in PRIVATE if word in str(told.value)]
    assert daemon.metric("insitu_refused_sessions_total", reason="token") == before + 1
    lives(daemon, directory)


class Recorder:
    """A relay that keeps what a client sent through it."""

    def __init__(self, endpoint: str) -> None:
        host, port = endpoint.removeprefix("tcp://").split(":")
        self._target = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.sent = bytearray()
        self.answered = bytearray()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                service = socket.create_connection(self._target)
                for source, sink, kept in (
                    (client, service, self.sent),
                    (service, client, self.answered),
                ):
                    threading.Thread(
                        target=self._copy, args=(source, sink, kept), daemon=True
                    ).start()

    @staticmethod
    def _copy(source: socket.socket, sink: socket.socket, kept: bytearray) -> None:
        with source, sink, contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                kept += data
                sink.sendall(data)
            sink.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def recorder(daemon: Daemon) -> Iterator[Recorder]:
    made = Recorder(daemon.endpoint)
    yield made
    made.close()


def recorded(daemon: Daemon, directory: Path, recorder: Recorder) -> None:
    """A good session, through the recorder."""
    with keyed_producer(
        daemon, directory, SERVER.public, ALICE, "rank-3", token=TOKEN, epoch=time.time_ns(),
        endpoint=recorder.endpoint,
    ) as alice:  # fmt: skip
        assert alice.push({"x": np.full((8, 6), 7.0, np.float32), "y": np.zeros(8, np.int64)})
        alice.flush(30.0)


def test_nothing_can_be_read_on_the_way(
    daemon: Daemon, directory: Path, recorder: Recorder
) -> None:
    recorded(daemon, directory, recorder)
    assert len(recorder.sent) > 500
    payload = np.full(6, 7.0, np.float32).tobytes()
    for private in (TOKEN.encode(), b"rank-3", b"small", payload, ALICE.public.encode()):
        assert private not in recorder.sent
        assert private not in recorder.answered


def test_a_recorded_session_cannot_be_played_again(
    daemon: Daemon, directory: Path, recorder: Recorder
) -> None:
    recorded(daemon, directory, recorder)
    wait_for(lambda: daemon.metric("insitu_sessions") == 0, "the first one to leave")
    before = refused(daemon, "wrong_key") + refused(daemon, "protocol")
    received = daemon.metric("insitu_received_samples_total")
    greeted = daemon.log().count("producer rank-3 has come")
    host, port = daemon.endpoint.removeprefix("tcp://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as replay:
        replay.sendall(recorder.sent)
        with contextlib.suppress(ConnectionResetError):
            while replay.recv(4096):
                pass  # until the service hangs up
    wait_for(
        lambda: refused(daemon, "wrong_key") + refused(daemon, "protocol") == before + 1,
        "the replay to be counted",
    )
    assert daemon.metric("insitu_sessions") == 0
    assert daemon.metric("insitu_received_samples_total") == received
    assert daemon.log().count("producer rank-3 has come") == greeted
    lives(daemon, directory)


def test_damaged_handshakes_open_nothing_and_break_nothing(
    daemon: Daemon, directory: Path, recorder: Recorder
) -> None:
    """What a client sends until it is in, with bytes changed, left out, doubled, or cut off."""
    recorded(daemon, directory, recorder)
    wait_for(lambda: daemon.metric("insitu_sessions") == 0, "the first one to leave")
    greeted = daemon.log().count("producer rank-3 has come")
    source, whole = random.Random(7), bytes(recorder.sent[:600])
    host, port = daemon.endpoint.removeprefix("tcp://").split(":")
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(source.randrange(1, 6)):
            at, kind = source.randrange(len(damaged)), source.randrange(4)
            if kind == 0:
                damaged[at] ^= 1 << source.randrange(8)
            elif kind == 1:
                del damaged[at : at + source.randrange(1, 40)]
            elif kind == 2:
                damaged[at:at] = source.randbytes(source.randrange(1, 40))
            else:
                damaged[at:at] = damaged[at : at + 64]
        with (
            socket.create_connection((host, int(port)), timeout=20) as peer,
            contextlib.suppress(OSError),
        ):
            peer.sendall(damaged[: source.randrange(1, len(damaged))])
    assert daemon.metric("insitu_sessions") == 0
    assert daemon.log().count("producer rank-3 has come") == greeted
    wait_for(lambda: daemon.metric("insitu_connections") == 0, "all of them to be gone")
    lives(daemon, directory)


def test_a_socket_file_is_guarded_by_its_mode_and_needs_no_key(
    daemon: Daemon, directory: Path
) -> None:
    path = directory / "ingest"
    assert path.stat().st_mode & 0o777 == 0o700
    with Producer(
        f"ipc://{path}", stream="small", producer_id="anybody", token=TOKEN, schema=SCHEMA
    ) as local:
        push(local, 0, 20)
        local.flush(30.0)


AS_NOBODY = """
import os, sys
sys.path[:0] = sys.argv[2:]
from bad_input import Hostile
os.setgid(65534); os.setuid(65534)
peer = Hostile(sys.argv[1])
peer.hello("rank-0", stream="small", token="correct-horse-battery")
print("answered" if peer.socket.poll(1500) else "silence")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_user_of_this_machine_is_refused_at_a_socket_without_a_mode(
    tmp_path: Path,
) -> None:
    made = keyed_config(tmp_path, SERVER, CLIENTS)
    abstract = f"ipc://@insitu-{os.getpid()}"
    made["stream"]["endpoints"] = [abstract]
    with Daemon(tmp_path, made) as daemon:
        daemon.start()
        words = [sys.executable, "-c", AS_NOBODY, abstract, str(Path(__file__).parent), *sys.path]
        done = subprocess.run(words, capture_output=True, text=True, cwd="/")
        assert done.stdout.strip() == "silence", done.stderr
        assert refused(daemon, "user") >= 1  # as often as it came back
        with Hostile(abstract) as ours:
            ours.greet("anybody", stream="small", schema=SCHEMA)


def test_the_environment_holds_keys_and_token_as_well(
    daemon: Daemon, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSITU_SERVER_KEY", SERVER.public)
    monkeypatch.setenv("INSITU_SECRET_KEY_FILE", str(BOB.file(directory / "bob.secret")))
    monkeypatch.setenv("INSITU_TOKEN_FILE", str(directory / "token"))
    with producer(daemon, "camera", epoch=time.time_ns()) as bob:
        push(bob, 0, 20)
        bob.flush(30.0)


def test_the_command_line_and_the_sources_take_keys(
    daemon: Daemon, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = BOB.file(directory / "bob-by-hand.secret")
    proof = ["--server-key", SERVER.public, "--secret-key-file", str(secret)]
    reach = ["--stream", "small", "--producer-id", "camera"]
    reach += ["--endpoint", daemon.endpoint, "--token-file", str(directory / "token")]
    np.savez(directory / "some.npz", **arrays(0, 32))
    assert run(["push", str(directory / "some.npz"), *reach, *proof]) == 0
    assert json.loads(capsys.readouterr().out)["acknowledged_rows"] == 32
    parser = argument_parser("tests", "A source.", stream="small")
    given = parser.parse_args([*reach, *proof, "--timeout", "30"])
    assert feed([Push(arrays(0, 20), task="")], given) == 20


def test_a_list_that_is_read_again_lets_in_and_throws_out(daemon: Daemon, directory: Path) -> None:
    path, epoch = directory / "clients.yaml", time.time_ns()
    before = daemon.metric("insitu_refused_sessions_total", reason="identity")
    with keyed_producer(
        daemon, directory, SERVER.public, BOB, "camera", token=TOKEN, epoch=epoch
    ) as bob:
        push(bob, 0, 20)
        bob.flush(30.0)
        write_clients(path, CLIENTS[0], entry("new", STRANGER.public, ["new"]))
        daemon.signal(signal.SIGHUP)
        wait_for(lambda: bob.stats().state == "refused", "bob to be thrown out")
        with pytest.raises(ProducerError, match="the key is not allowed"):
            bob.push(arrays(0, 1))
    assert daemon.metric("insitu_refused_sessions_total", reason="identity") > before
    with keyed_producer(
        daemon, directory, SERVER.public, STRANGER, "new", token=TOKEN, epoch=epoch
    ) as new:
        push(new, 0, 20)
        new.flush(30.0)
    path.write_text("clients: [{name: 3}]")
    daemon.signal(signal.SIGHUP)
    wait_log(daemon, "the configuration is wrong, the old one stays")
    write_clients(path, *CLIENTS)
    daemon.signal(signal.SIGHUP)
    wait_for(lambda: daemon.log().count("the configuration was read again") == 2, "the old list")
    lives(daemon, directory)


def test_the_service_s_key_may_come_by_the_environment_and_stays_out_of_hooks(
    tmp_path: Path,
) -> None:
    made = keyed_config(tmp_path, SERVER, CLIENTS)
    made["stream"]["curve"]["secret_key_file"] = None
    made["hooks"] = [{"on": "start", "shell": f"env > {tmp_path}/environment"}]
    with Daemon(tmp_path, made) as daemon:
        daemon.start(environment={"INSITU_SERVER_SECRET_KEY": SERVER.secret, "VISIBLE": "yes"})
        seen = tmp_path / "environment"
        wait_for(lambda: seen.exists() and "VISIBLE=yes" in seen.read_text(), "the hook")
        assert SERVER.secret not in seen.read_text()
        with keyed_producer(daemon, tmp_path, SERVER.public, BOB, "camera") as bob:
            push(bob, 0, 20)
            bob.flush(30.0)
        assert daemon.stop() == 0


def test_a_peer_that_shakes_hands_and_says_nothing_more_learns_nothing(daemon: Daemon) -> None:
    """The service's greeting is ZeroMQ's; nothing in it is ours."""
    host, port = daemon.endpoint.removeprefix("tcp://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as silent:
        said = silent.recv(64)
    assert said.startswith(b"\xff")
    assert not [word for word in (*PRIVATE, "insitu", "small") if word.encode() in said]
    assert os.environ.get("INSITU_SECRET_KEY") is None
    assert zmq.has("curve")
