"""The gatekeeper and the allow-list in one process, with real handshakes."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from bad_input import config
from insitu.config import Client, check_config
from insitu.errors import InternalError
from insitu.schema import Schema
from insitu.wire.messages import PROTOCOL_VERSION, Hello, RefusalCode, Refused
from insitu_service.ingest.endpoints import SocketTerms, bind_router
from insitu_service.ingest.gatekeeper import Gatekeeper
from insitu_service.ingest.greeting import Terms
from insitu_service.ingest.intake import Intake
from insitu_service.ingest.session import Origin, Sessions
from insitu_service.security.allow_list import NO_KEY, AllowList
from insitu_service.security.rate_limit import RateLimit
from insitu_service.security.secrecy import Secrets
from keyed import Pair

SERVER, ALICE, BOB = (Pair.made() for _ in range(3))
SCHEMA = Schema.of({"x": ("float32", (2,))})


def client(name: str, key: str, *producer_ids: str, streams: tuple[str, ...] = ("*",)) -> Client:
    return Client(name=name, public_key=key, producer_ids=producer_ids, streams=streams)


class Gate:
    """A ROUTER with a gatekeeper, served by a thread that sends every message back."""

    def __init__(self, allow_list: AllowList | None, rate: float, endpoint: str) -> None:
        self.intake = Intake()
        self.users: list[str] = []
        self._context: zmq.Context[Any] = zmq.Context()
        self._keeper = Gatekeeper(
            self._context, allow_list, handshakes_per_second=rate, intake=self.intake
        )
        secret = None if allow_list is None else SERVER.secret
        self._router, (self.endpoint,) = bind_router(
            self._context, [endpoint], SocketTerms(secret, handshake_seconds=5.0)
        )
        self.endpoint = self.endpoint.replace("[::ffff:127.0.0.1]", "127.0.0.1")
        self._done = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._router, zmq.POLLIN)
        poller.register(self._keeper.socket, zmq.POLLIN)
        while not self._done:
            events = dict(poller.poll(20))
            if self._keeper.socket in events:
                self._keeper.answer()
            if self._router in events:
                frames = self._router.recv_multipart(copy=False)
                self.users.append(str(frames[1].get("User-Id")))
                self._router.send_multipart([frame.bytes for frame in frames])
        self._keeper.close()
        self._router.close()

    def close(self) -> None:
        self._done = True
        self._thread.join()
        self._context.destroy(linger=0)


@pytest.fixture
def gate(request: pytest.FixtureRequest) -> Iterator[Gate]:
    made = Gate(*request.param)
    yield made
    made.close()


def echoed(gate: Gate, pair: Pair | None, seconds: float = 10.0) -> bool:
    """Whether a client gets its message back; no when its handshake failed."""
    context: zmq.Context[Any] = zmq.Context()
    try:
        dealer = context.socket(zmq.DEALER)
        monitor = dealer.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
            | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        )  # fmt: skip
        if pair is not None:
            dealer.curve_serverkey = SERVER.public.encode()
            dealer.curve_publickey, dealer.curve_secretkey = (
                pair.public.encode(), pair.secret.encode(),
            )  # fmt: skip
        dealer.connect(gate.endpoint)
        dealer.send(b"hello")
        poller = zmq.Poller()
        poller.register(dealer, zmq.POLLIN)
        poller.register(monitor, zmq.POLLIN)
        events = dict(poller.poll(int(1000 * seconds)))
        assert events, "neither an answer nor a refusal"
        return dealer in events
    finally:
        context.destroy(linger=0)


ALLOWED = AllowList([client("alice", ALICE.public, "a-*")])


@pytest.mark.parametrize("gate", [(ALLOWED, 100.0, "tcp://127.0.0.1:*")], indirect=True)
def test_only_keys_of_the_list_pass_and_the_connection_carries_the_key(gate: Gate) -> None:
    assert echoed(gate, ALICE)
    assert gate.users == [ALICE.public]
    assert not echoed(gate, BOB)
    assert gate.intake.refused_handshakes == {"unknown_key": 1}
    assert not echoed(gate, None)
    assert not echoed(gate, Pair(ALICE.public, BOB.secret))  # the public key alone proves nothing
    assert gate.users == [ALICE.public]


@pytest.mark.parametrize("gate", [(None, 100.0, "tcp://127.0.0.1:*")], indirect=True)
def test_without_a_list_all_pass_but_none_with_keys(gate: Gate) -> None:
    assert echoed(gate, None)
    assert gate.users == [NO_KEY]
    assert not echoed(gate, ALICE)  # a client that asks for encryption is not given less


@pytest.mark.parametrize("gate", [(ALLOWED, 100.0, "ipc://@insitu-gate")], indirect=True)
def test_a_socket_file_takes_the_service_s_own_user(gate: Gate) -> None:
    assert echoed(gate, None)
    assert gate.users == [NO_KEY]


@pytest.mark.parametrize("gate", [(None, 2.0, "tcp://127.0.0.1:*")], indirect=True)
def test_handshakes_are_limited(gate: Gate) -> None:
    found = [echoed(gate, None) for _ in range(6)]
    assert found[:2] == [True, True]
    assert gate.intake.refused_handshakes["rate"] == found.count(False) >= 2


def test_without_a_gatekeeper_nobody_comes_in() -> None:
    context: zmq.Context[Any] = zmq.Context()
    try:
        router, (endpoint,) = bind_router(
            context, ["tcp://127.0.0.1:*"], SocketTerms(SERVER.secret)
        )
        dealer = context.socket(zmq.DEALER)
        dealer.curve_serverkey = SERVER.public.encode()
        dealer.curve_publickey, dealer.curve_secretkey = (
            ALICE.public.encode(), ALICE.secret.encode(),
        )  # fmt: skip
        dealer.connect(endpoint.replace("[::ffff:127.0.0.1]", "127.0.0.1"))
        dealer.send(b"hello")
        assert router.poll(700) == 0
    finally:
        context.destroy(linger=0)


def hello(producer_id: str = "a-1", stream: str = "s", token: str = "") -> Hello:
    return Hello(
        PROTOCOL_VERSION, producer_id, 1, stream, SCHEMA, SCHEMA.crc32, (), "", "", token, 1, 0
    )


def refusal(greeting: Hello, key: str, *, token: str | None = None) -> Refused | None:
    allowed = AllowList(
        [client("alice", ALICE.public, "a-*", streams=("s",)), client("bob", BOB.public, "b")]
    )
    terms = Terms(SCHEMA, frozenset(["s", "hidden"]), token, 4, 1 << 20, 1 << 20, "block", allowed)
    return terms.refusal(greeting, Origin(3, key), Sessions(), "")


def test_a_key_may_greet_as_its_own_and_as_nobody_else() -> None:
    assert refusal(hello("a-1"), ALICE.public) is None
    assert refusal(hello("b", "hidden"), BOB.public) is None
    assert refusal(hello("anybody"), NO_KEY) is None
    for greeting, key in (
        (hello("b"), ALICE.public),
        (hello("a-1"), BOB.public),
        (hello("a-1", "hidden"), ALICE.public),
        (hello("a-1", "unknown"), ALICE.public),
        (hello("a-1"), Pair.made().public),
        (hello("a-1"), ""),
        (hello("a-1"), "alice"),
    ):
        refused = refusal(greeting, key)
        assert refused is not None
        assert (refused.code, refused.retry) == (RefusalCode.IDENTITY, False)
        others = {"a-", "b", "hidden", "alice", "bob"} - {greeting.producer_id, greeting.stream}
        said = refused.text.replace(repr(greeting.producer_id), "").replace(
            repr(greeting.stream), ""
        )
        assert not [word for word in others if f" {word} " in f" {said} " or f"'{word}" in said]


@pytest.mark.parametrize("token", ["", "secre", "secret1", "SECRET", "s\u00e9cret"])
def test_a_wrong_token_is_refused_with_a_good_key(token: str) -> None:
    refused = refusal(hello(token=token), ALICE.public, token="secret")
    assert refused is not None
    assert refused.code == RefusalCode.TOKEN
    assert "secret" not in refused.text
    assert refusal(hello(token="secret"), ALICE.public, token="secret") is None


def test_a_list_is_replaced_whole() -> None:
    allowed = AllowList([client("alice", ALICE.public, "a")])
    allowed.replace([client("bob", BOB.public, "b")])
    assert allowed.name_of(ALICE.public) is None
    assert allowed.name_of(BOB.public) == "bob"
    assert allowed.objection(ALICE.public, hello("a")) == "the key is not allowed"


def test_a_rate_is_kept_over_time() -> None:
    limit = RateLimit(10.0)
    let = sum(limit.allows(step / 100) for step in range(1000))  # 100 a second for 10 s
    assert 100 <= let <= 111
    slow = RateLimit(0.5)
    assert [slow.allows(at) for at in (0.0, 1.0, 2.1, 2.2)] == [True, False, True, False]


def test_the_socket_file_of_a_service_is_for_its_user_alone(tmp_path: Path) -> None:
    context: zmq.Context[Any] = zmq.Context()
    before = os.umask(0o077)
    try:
        router, _ = bind_router(context, [f"ipc://{tmp_path}/x"], SocketTerms())
        assert (tmp_path / "x").stat().st_mode & 0o077 == 0
        router.close()
    finally:
        os.umask(before)
        context.destroy(linger=0)


def test_secrets_that_were_forgotten_on_the_way_open_nothing(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret")
    made = config(tmp_path, stream={"token_file": str(tmp_path / "token")})
    checked = check_config(made)
    with pytest.raises(InternalError, match="secrets were not handed"):
        Secrets().check(checked)
    Secrets.of(checked, {}).check(checked)
    assert Secrets.of(checked, {}).texts == ["secret"]
    assert "secret'" not in repr(Secrets.of(checked, {}))
