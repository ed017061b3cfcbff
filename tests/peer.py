"""A small real service for the client's tests: a ROUTER socket, `Receiver`s, and a store.

The store outlives the peer, as a buffer with its positions outlives a restart. The peer can be
told to misbehave in the ways that networks and services do.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import zmq

from insitu.schema import Schema
from insitu.wire.capabilities import RESUMES, ROW_COUNTS
from insitu.wire.checksum import choose
from insitu.wire.codec import decode, encode
from insitu.wire.messages import (
    PROTOCOL_VERSION,
    Bye,
    Data,
    Fenced,
    Hello,
    Message,
    NackCode,
    NoSession,
    Ping,
    Pong,
    Refused,
    Welcome,
    WireError,
)
from insitu.wire.receiver import Duplicate, GoBack, Receiver, Rejected, Write
from insitu.wire.rows import unpack_rows


@dataclass
class Stored:
    """What one epoch of one producer has sent."""

    epoch: int
    schema: Schema
    next_seq: int = 1
    next_row: int = 0
    cursor: Any = None
    cursor_row: int = 0  # behind the last row that the cursor is complete with
    left_out_rows: int = 0  # that the epoch before has sent
    batches: list[tuple[Data, bytes]] = field(default_factory=list)
    lost_rows: int = 0
    gap_rows: int = 0
    bye: Bye | None = None

    def rows(self, name: str) -> list[Any]:
        found: list[Any] = []
        for _, payload in self.batches:
            found.extend(unpack_rows(self.schema, payload)[name].tolist())
        return found


@dataclass
class Session:
    receiver: Receiver
    stored: Stored
    producer_id: str
    parts: bytearray = field(default_factory=bytearray)
    dirty: bool = False


class Peer:
    """Answers on `endpoint` until closed. Attributes may be changed while it runs."""

    def __init__(self, endpoint: str, store: dict[str, Stored] | None = None, **how: Any) -> None:
        self.store = {} if store is None else store
        self.credit_bytes = how.pop("credit_bytes", 64 << 20)
        self.credit_batches = how.pop("credit_batches", 10_000)
        self.max_fragment_bytes = how.pop("max_fragment_bytes", 1 << 20)
        self.max_batch_bytes = how.pop("max_batch_bytes", 8 << 20)
        self.heartbeat_seconds = how.pop("heartbeat_seconds", 0.4)
        self.ack_level = how.pop("ack_level", "received")
        self.refusal: Refused | None = how.pop("refusal", None)
        self.lose: Callable[[Message], bool] = how.pop("lose", lambda message: False)
        self.corrupt: Callable[[Data], bool] = how.pop("corrupt", lambda data: False)
        #: how many rows of a batch are bad, or whether all are
        self.quarantine: Callable[[Data], int] = how.pop("quarantine", lambda data: False)
        #: what this service does not know of, as an older release
        self.lacks: frozenset[str] = how.pop("lacks", frozenset())
        self.full: Callable[[Data], bool] = how.pop("full", lambda data: False)
        #: accepted -> (durable, trained)
        self.positions: Callable[[int], tuple[int, int]] = how.pop("positions", lambda n: (0, 0))
        assert not how, how
        self.messages: list[str] = []
        self.epochs: list[Stored] = []  # all that began here
        self.pings: list[Ping] = []
        self.raw: list[bytes] = []  # frames to send to everybody, as they are
        self.broken: list[BaseException] = []
        self._sessions: dict[bytes, Session] = {}
        self._session_number = time.monotonic_ns() % (1 << 40)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._bind(endpoint)
        self.endpoint = self._socket.getsockopt(zmq.LAST_ENDPOINT).decode()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _bind(self, endpoint: str) -> None:
        deadline = time.monotonic() + 10
        while True:
            try:
                return self._socket.bind(endpoint)
            except zmq.ZMQError:
                if time.monotonic() > deadline:
                    raise

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
        assert not self.broken, self.broken

    def close(self) -> None:
        """Gone at once, as if killed."""
        self._stopping.set()
        self._thread.join()
        self._socket.close(linger=0)
        self._context.term()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._socket.poll(10)
                self._drain()
                for identity, session in self._sessions.items():
                    if session.dirty:
                        session.dirty = False
                        self._ack(identity, session)
                while self.raw:
                    frame = self.raw.pop()
                    for identity in self._sessions:
                        self._socket.send_multipart([identity, frame])
        except BaseException as error:
            self.broken.append(error)

    def _drain(self) -> None:
        for _ in range(64):
            try:
                identity, *frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                message = decode(frames)
            except WireError as error:
                self.broken.append(error)
                continue
            self._handle(identity, message)

    def _send(self, identity: bytes, message: Message) -> None:
        if not self.lose(message):
            self._socket.send_multipart([identity, *encode(message)])

    def _ack(self, identity: bytes, session: Session) -> None:
        receiver = session.receiver
        durable, trained = self.positions(receiver.accepted)
        credit = self.credit_bytes, self.credit_batches
        self._send(identity, receiver.ack(*credit, durable=durable, trained=trained))

    def _handle(self, identity: bytes, message: Message) -> None:
        self.messages.append(type(message).__name__)
        if isinstance(message, Hello):
            return self._hello(identity, message)
        session = self._sessions.get(identity)
        if session is None or message.session != session.receiver.session:
            return self._send(identity, NoSession(message.session))
        match message:
            case Data():
                self._data(identity, session, message)
            case Ping():
                self.pings.append(message)
                self._ack(identity, session)
                self._send(identity, Pong(message.session, message.stamp_ns))
            case Bye():
                session.stored.bye = message
                self._ack(identity, session)
                self._send(identity, message)

    def _hello(self, identity: bytes, hello: Hello) -> None:
        if self.refusal is not None:
            return self._send(identity, self.refusal)
        stored = self.store.get(hello.producer_id)
        if stored is not None and hello.epoch < stored.epoch:
            return self._send(identity, Fenced(stored.epoch, "a newer epoch is here"))
        known = set(hello.capabilities) - self.lacks
        if stored is None or hello.epoch > stored.epoch:
            former, stored = stored, Stored(hello.epoch, hello.schema)
            self.store[hello.producer_id] = stored
            if former is not None:
                stored.cursor = former.cursor
                if RESUMES in known:
                    stored.next_row = former.next_row - former.cursor_row
                    stored.left_out_rows = stored.next_row
            self.epochs.append(stored)
        for other, session in list(self._sessions.items()):
            if session.producer_id == hello.producer_id:
                if session.stored.epoch < hello.epoch:
                    self._send(other, Fenced(hello.epoch, "a newer epoch is here"))
                del self._sessions[other]
        self._session_number += 1
        kind = choose(hello.capabilities)
        receiver = Receiver(
            self._session_number, hello.schema.row_bytes, kind, self.max_batch_bytes,
            next_seq=stored.next_seq, next_row=stored.next_row, counts_rows=ROW_COUNTS in known,
        )  # fmt: skip
        stored.lost_rows += receiver.resume(hello)
        places = (receiver.next_row, receiver.next_row - stored.cursor_row)
        self._sessions[identity] = Session(receiver, stored, hello.producer_id)
        first = receiver.ack(self.credit_bytes, self.credit_batches)
        self._send(
            identity,
            Welcome(
                PROTOCOL_VERSION, self._session_number, receiver.next_seq, stored.cursor,
                first.credit_bytes, first.credit_batches, self.ack_level,
                self.max_fragment_bytes, self.max_batch_bytes, "block", kind,
                self.heartbeat_seconds, *(places if ROW_COUNTS in known else ()),
            ),
        )  # fmt: skip

    def _data(self, identity: bytes, session: Session, data: Data) -> None:
        if self.corrupt(data):
            broken = bytearray(data.payload)
            broken[len(broken) // 2] ^= 1
            data = Data(*(getattr(data, n) for n in Data.__slots__[:-1]), bytes(broken))
        receiver, stored = session.receiver, session.stored
        match receiver.receive(data):
            case Write(begin=begin, complete=complete, gap_rows=gap_rows):
                if begin:
                    session.parts = bytearray()
                    if self.full(data):
                        return self._send(identity, receiver.no_room())
                    stored.gap_rows += gap_rows
                session.parts += data.payload
                if not complete:
                    return None
                session.dirty = True
                bad = self.quarantine(data)
                if bad:
                    rows = data.rows if bad is True else bad
                    nack = receiver.quarantine(NackCode.NON_FINITE, "NaN in field 'x'", rows)
                    self._send(identity, nack)
                else:
                    receiver.settled()
                    stored.batches.append((data, bytes(session.parts)))
                stored.next_seq, stored.next_row = receiver.next_seq, receiver.next_row
                if data.cursor is not None:
                    stored.cursor, stored.cursor_row = data.cursor, receiver.next_row
            case GoBack(nack=nack):
                self._send(identity, nack)
            case Rejected(nack=nack):
                stored.next_seq, stored.next_row = receiver.next_seq, receiver.next_row
                self._send(identity, nack)
                session.dirty = True
            case Duplicate():
                session.dirty = True
            case _:
                pass
        return None


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for a condition, and fail when it does not come."""
    deadline = time.monotonic() + seconds
    turn = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        turn.wait(0.005)
