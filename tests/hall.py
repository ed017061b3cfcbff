"""A service and many producers in one thread and in virtual time: who gets how much, and when.

The parts are the daemon's and the client's own; there are no sockets and no real seconds, so what
is measured does not depend on the machine. A tick is a turn of the service, of the learner, which
trains at a fixed rate, and of every producer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch

from insitu.schema import Schema
from insitu.stream.buffer import StreamBuffer
from insitu.stream.inlet import Inlet
from insitu.stream.pacing import FixedPace
from insitu.stream.policies import FIFO
from insitu.tasks import TaskLedger
from insitu.wire.batches import Label, Outgoing
from insitu.wire.codec import decode, encode
from insitu.wire.messages import Message
from insitu.wire.sender import SendWindow
from insitu.wire.session import Identity, ProducerSession
from insitu.wire.values import Payload
from insitu_producers.dialogue import Dialogue
from insitu_service.ingest.acknowledger import Acknowledger
from insitu_service.ingest.data_path import DataPath
from insitu_service.ingest.door import Door
from insitu_service.ingest.greeting import Terms
from insitu_service.ingest.intake import Intake
from insitu_service.ingest.lobby import Lobby
from insitu_service.ingest.quota import Quotas
from insitu_service.ingest.reception import Reception
from insitu_service.ingest.session import Sessions
from insitu_service.ingest.turn import Turn
from insitu_service.learning.probe_inbox import ProbeInbox
from insitu_service.security.flood_gate import FloodGate

SCHEMA = Schema.of({"x": ("float32", (12,))})
ROW = SCHEMA.row_bytes
TICK_SECONDS = 0.001


class Guest:
    """A producer.

    Args:
        rows_per_second: what it offers; None: always more than is taken.
        every_ticks: how often it has a turn.
    """

    def __init__(
        self, name: str, *, rows: int = 8, rows_per_second: float | None = None,
        every_ticks: int = 1,
    ) -> None:  # fmt: skip
        self.name = name
        self.window = SendWindow(SCHEMA, 64 * rows * ROW)
        self.session = ProducerSession(self.window, Identity(name, 1, "s"))
        self.dialogue = Dialogue(self.session)
        self.inbox: deque[list[Payload]] = deque()
        self.latencies: list[float] = []
        self.stalled = False
        self._rows = rows
        self._every_ticks = every_ticks
        self._every_seconds = None if rows_per_second is None else rows / rows_per_second
        self._next_push: float | None = None
        self._pushes = 0
        self._sent_at: dict[int, float] = {}

    def start_at(self, now: float) -> None:
        """Push for the first time then."""
        self._next_push = now

    @property
    def accepted_rows(self) -> int:
        return self.window.books.acknowledged_rows

    def act(self, tick: int, now: float, send: Callable[[str, Message], None]) -> None:
        if self.stalled or tick % self._every_ticks:
            return
        while self.inbox:
            before = self.window.accepted
            hello = self.dialogue.receive(decode(self.inbox.popleft()), now)
            if hello is not None:
                send(self.name, hello)
            for seq in range(before + 1, self.window.accepted + 1):
                self.latencies.append(now - self._sent_at.pop(seq))
        self._push(now)
        while (due := self.dialogue.next_message(now, lambda: True)) is not None:
            if isinstance(due, Outgoing):
                self._sent_at.setdefault(due.batch.seq, now)
                due = due.data()
            send(self.name, due)

    def _push(self, now: float) -> None:
        if self._next_push is None:
            self._next_push = now
        while self._every_seconds is None or now >= self._next_push:
            spans = self.window.reserve(self._rows)
            if spans is None:
                return
            task = str(self._pushes % 2)  # so that they do not merge, and all are as large
            self.window.commit(spans, Label(task), produced_at_ns=1)
            self._pushes += 1
            self._next_push += self._every_seconds or 0.0


class Hall:
    """The service, and everybody in it."""

    def __init__(
        self, guests: list[Guest], *, ring_rows: int, trained_rows_per_second: float,
        turn_messages: int = 256, quota_bytes_per_second: float | None = None,
        gate: FloodGate | None = None,
    ) -> None:  # fmt: skip
        self.guests = guests
        self.now = 100.0
        self.intake = Intake()
        self.buffer = StreamBuffer(
            SCHEMA, ring_rows, FIFO(ring_rows), FixedPace(), TaskLedger(most_tasks=9),
            when_full="block", generator=torch.Generator().manual_seed(1),
            clock=lambda: self.now, on_room=self._wake,
        )  # fmt: skip
        self._by_identity = {guest.name.encode(): guest for guest in guests}
        self._upward: dict[bytes, deque[list[Payload]]] = {}
        self.flood: Callable[[], None] = lambda: None
        self._woken = False
        self._tick = 0
        self._budget = 0.0
        self._per_tick = trained_rows_per_second * TICK_SECONDS
        self._turn_messages = turn_messages
        self._gate = gate
        self._turn = Turn(*self._compose(quota_bytes_per_second), self.now)

    def _compose(self, quota: float | None) -> tuple[Reception, Inlet]:
        sessions, probes = Sessions(), ProbeInbox()
        inlet = Inlet(self.buffer, probes.take)
        terms = Terms(SCHEMA, frozenset({"s"}), None, 1000, 1 << 20, 1 << 20, "block")
        quotas = Quotas.of(None, quota, row_bytes=ROW, clock=lambda: self.now)
        acknowledger = Acknowledger(
            sessions, inlet, self._send, row_bytes=ROW, always_room=False, quotas=quotas
        )
        lobby = Lobby(
            sessions, inlet, terms, acknowledger, self.intake, self._send, timeout_seconds=30.0
        )
        data_path = DataPath(
            inlet, Door(SCHEMA, {}), acknowledger, self.intake, self._send, drops_newest=False
        )
        reception = Reception(
            sessions, lobby, data_path, acknowledger, self.intake, self._send, self._gate
        )
        return reception, inlet

    def _wake(self) -> None:
        self._woken = True

    def _send(self, identity: bytes, message: Message) -> None:
        guest = self._by_identity.get(identity)  # None: nobody reads what a stranger is told
        if guest is not None and not guest.stalled:
            guest.inbox.append([bytes(frame) for frame in encode(message)])

    def send(self, name: str, message: Message) -> None:
        """What a guest, or somebody in its name, puts on the wire."""
        self.send_frames(name, [bytes(frame) for frame in encode(message)])

    def send_frames(self, name: str, frames: list[Payload]) -> None:
        self._upward.setdefault(name.encode(), deque()).append(frames)

    def backlog(self, name: str) -> int:
        """Messages of a peer that the service has not read."""
        return len(self._upward.get(name.encode(), ()))

    def session_of(self, name: str) -> int:
        """Number of a producer's session; 0 if it has none."""
        session = self._turn.reception.sessions.of_producer(name)
        return 0 if session is None else session.receiver.session

    def _next_messages(self) -> list[tuple[bytes, list[Payload]]]:
        """One of each peer in turn, as a ROUTER socket gives them."""
        found: list[tuple[bytes, list[Payload]]] = []
        while self._upward and len(found) < self._turn_messages:
            identity = next(iter(self._upward))
            waiting = self._upward.pop(identity)
            found.append((identity, waiting.popleft()))
            if waiting:
                self._upward[identity] = waiting  # at the end of the queue of queues
        return found

    def run_for(self, seconds: float) -> None:
        for _ in range(round(seconds / TICK_SECONDS)):
            self.tick()

    def tick(self) -> None:
        self._tick += 1
        self.now += TICK_SECONDS
        self._learn()
        self._turn.begin(self.now)
        if self._woken:
            self._woken = False
            self._turn.look_up(None)
        messages = self._next_messages()
        for identity, frames in messages:
            if not self._turn.ignores(identity, self.now):
                self._turn.take(identity, frames, self.now)
        self._turn.end(self.now, idle=not messages)
        for guest in self.guests:
            guest.act(self._tick, self.now, self.send)
        self.flood()

    def _learn(self) -> None:
        self._budget = min(self._budget + self._per_tick, 64.0)
        while self._budget >= 8:
            draw = self.buffer.draw(8, 0.0)
            if draw is None or draw.batch is None:
                return
            self.buffer.release(draw)
            self._budget -= 8
