"""One simulation of many in a process: a socket and the client's own state machines, no thread."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import zmq

from chaos.rows import SCHEMA, STREAM, ids_of, rows_of
from insitu.wire.batches import Label, Outgoing
from insitu.wire.codec import decode, encode
from insitu.wire.sender import SendWindow
from insitu.wire.session import Identity, ProducerSession
from insitu.wire.values import Payload
from insitu_producers.dialogue import Dialogue
from insitu_producers.writing import write

_LABEL = Label(identified=True)


@dataclass(frozen=True)
class Crowding:
    """What the process is told.

    Args:
        first: number of its first member; the others follow.
        rows: of a push.
        window_rows: that a member holds until they are acknowledged.
    """

    endpoint: str
    first: int
    members: int
    rows: int = 32
    window_rows: int = 128


class Member:
    """One producer; what it pushed is known by its rows, which are acknowledged in their order."""

    def __init__(self, context: zmq.Context[Any], told: Crowding, number: int) -> None:
        self.number = number
        self.window = SendWindow(SCHEMA, told.window_rows * SCHEMA.row_bytes)
        self.session = ProducerSession(self.window, Identity(f"rank-{number}", 1, STREAM))
        self.dialogue = Dialogue(self.session)
        self.latencies: list[float] = []  # seconds from a push to its acknowledgement
        self.refused_pushes = 0
        self._context, self._told = context, told
        rows = rows_of(number, 0, told.rows)
        self._columns = [rows[each.name] for each in SCHEMA.fields]
        self._pushed: deque[tuple[int, float]] = deque()  # row behind a push, and when it was
        self._pending: list[Payload] | None = None
        self.socket = self._connect()

    def _connect(self) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.DEALER)
        for option, value in ((zmq.LINGER, 0), (zmq.IMMEDIATE, 1), (zmq.SNDHWM, 16)):
            socket.setsockopt(option, value)
        socket.connect(self._told.endpoint)
        return socket

    @property
    def accepted_rows(self) -> int:
        return self.window.books.acknowledged_rows

    def push(self, now: float) -> bool:
        """Push once; False when the window has no room."""
        rows, row = self._told.rows, self.window.next_row
        spans = self.window.reserve(rows)
        if spans is None:
            self.refused_pushes += 1
            return False
        write(spans, self._columns)
        ids = ids_of(self.number, row, row + rows).astype("<i8").tobytes()
        self.window.commit(spans, _LABEL, produced_at_ns=time.time_ns(), sample_ids=ids)
        self._pushed.append((row + rows, now))
        return True

    def serve(self, *, full: bool) -> None:
        """Read what came, push if it is to, and send what is due, until nothing is left."""
        while True:
            self._receive(time.monotonic())
            while full and self.push(time.monotonic()):
                pass
            self._send(time.monotonic())
            if not int(self.socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
                return

    def watch(self, now: float) -> bool:
        """Give up on a silent service; True when the socket is another one."""
        if not self.dialogue.gives_up(now):
            return False
        self.socket.close(linger=0)
        self.socket, self._pending = self._connect(), None
        return True

    def _receive(self, now: float) -> None:
        while True:
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            hello = self.dialogue.receive(decode(frames), now)
            if hello is not None:
                self._pending = encode(hello)
        settled = self.window.books.acknowledged_rows + self.window.books.quarantined_rows
        while self._pushed and self._pushed[0][0] <= settled:
            self.latencies.append(now - self._pushed.popleft()[1])

    def _send(self, now: float) -> None:
        while True:
            if self._pending is None:
                due = self.dialogue.next_message(now, self._is_writable)
                if due is None:
                    return
                self._pending = encode(due.data() if isinstance(due, Outgoing) else due)
            try:
                self.socket.send_multipart(self._pending, zmq.NOBLOCK)
            except zmq.Again:
                return
            self._pending = None

    def _is_writable(self) -> bool:
        return bool(int(self.socket.getsockopt(zmq.EVENTS)) & zmq.POLLOUT)
