"""Sender and receiver against each other over a network made of two lists, without any I/O.

Hypothesis pushes, delivers, corrupts, loses, cuts connections and restarts the service in any
order. After that the network heals, and every row must be at the service exactly once and in
order, except those that the books name.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from insitu.schema import Schema
from insitu.wire.batches import Label
from insitu.wire.codec import decode, encode
from insitu.wire.messages import Ack, Data, Hello, Message, NackCode, NoSession, Ping, Pong, Welcome
from insitu.wire.receiver import Duplicate, GoBack, Ignored, Receiver, Refused, Write
from insitu.wire.rows import unpack_rows
from insitu.wire.sender import SendWindow
from insitu.wire.session import Identity, ProducerSession, SessionState
from insitu.wire.when_full import when_full

SCHEMA = Schema.of({"n": ("int64", ()), "x": ("uint8", (3,))})
ROW = SCHEMA.row_bytes


class Service:
    """A receiver and the rows it holds; `saved` is what a crash leaves."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.labels: list[tuple[str, int | None]] = []
        self.next_seq, self.next_row = 1, 0
        self.cursor: object = None
        self.saved: tuple[int, int, int, object] = (1, 0, 0, None)
        self.receiver: Receiver | None = None
        self.session = 0
        self.room_rows = 50
        self.lost_rows = self.gap_rows = self.quarantined_rows = 0
        self.parts = bytearray()
        self.max_fragment_bytes = 3 * ROW + 5

    def restart(self) -> None:
        self.receiver = None
        self.next_seq, self.next_row, kept, self.cursor = self.saved
        del self.rows[kept:]

    def save(self) -> None:
        self.saved = self.next_seq, self.next_row, len(self.rows), self.cursor

    def ack(self) -> Ack:
        assert self.receiver is not None
        return self.receiver.ack(self.room_rows * ROW, 4)

    def handle(self, message: Message, quarantines: bool, is_full: bool) -> list[Message]:
        if isinstance(message, Hello):
            self.session += 1
            self.receiver = Receiver(
                self.session, ROW, "crc32", 40 * ROW, next_seq=self.next_seq, next_row=self.next_row
            )
            self.lost_rows += self.receiver.resume(message)
            self.next_seq, self.next_row = self.receiver.next_seq, self.receiver.next_row
            credit = self.ack()
            return [
                Welcome(
                    1, self.session, self.receiver.next_seq, self.cursor, credit.credit_bytes,
                    credit.credit_batches, "received", self.max_fragment_bytes, 40 * ROW, "block",
                    "crc32", 1.0,
                )
            ]  # fmt: skip
        if self.receiver is None or message.session != self.receiver.session:  # type: ignore[union-attr]
            return [NoSession(message.session)]  # type: ignore[union-attr]
        if isinstance(message, Ping):
            return [self.ack(), Pong(message.session, message.stamp_ns)]
        assert isinstance(message, Data)
        return self._data(self.receiver, message, quarantines, is_full)

    def _data(
        self, receiver: Receiver, data: Data, quarantines: bool, is_full: bool
    ) -> list[Message]:
        action = receiver.receive(data)
        answers: list[Message] = []
        match action:
            case Write(begin=begin, complete=complete, gap_rows=gap_rows):
                if begin:
                    self.parts = bytearray()
                    self.gap = gap_rows
                if is_full:
                    return [receiver.no_room()]
                assert len(self.parts) == data.offset
                self.parts += data.payload
                if not complete:
                    return []
                self.gap_rows += self.gap
                if quarantines:
                    answers.append(receiver.quarantine(NackCode.RANGE, "label 11"))
                    self.quarantined_rows += data.rows
                else:
                    receiver.settled()
                    values = unpack_rows(SCHEMA, self.parts)["n"].tolist()
                    assert values == list(range(values[0], values[0] + data.rows))
                    assert values[0] == data.first_row
                    self.rows += values
                    if data.cursor is not None:
                        self.cursor = data.cursor
                self.next_seq, self.next_row = receiver.next_seq, receiver.next_row
                answers.append(self.ack())
            case GoBack(nack=nack):
                answers.append(nack)
            case Duplicate():
                answers.append(self.ack())
            case Ignored():
                pass
            case Refused():
                raise AssertionError(action)
        return answers


class ExactlyOnce(RuleBasedStateMachine):
    @initialize(policy=st.sampled_from(["drop_newest", "drop_oldest", "thin"]))
    def begin(self, policy: str) -> None:
        self.window = SendWindow(SCHEMA, 64 * ROW)
        self.session = ProducerSession(self.window, Identity("p", 1, "s"))
        self.policy = when_full(policy)
        self.service = Service()
        self.upward: deque[list[bytes]] = deque()
        self.downward: deque[list[bytes]] = deque()
        self.now = 1.0
        self.restarted = False

    def send(self, queue: deque[list[bytes]], message: Message) -> None:
        queue.append([bytes(frame) for frame in encode(message)])

    @rule(rows=st.integers(1, 30), task=st.sampled_from(["a", "b"]))
    def push(self, rows: int, task: str) -> None:
        spans = self.policy.reserve(self.window, rows)
        if spans is None:
            self.window.drop_push(self.policy.reason, rows)
            return
        first = self.window.next_row
        done = 0
        for span in spans:
            n, x = span.slab.fields
            values = np.arange(first + done, first + done + span.rows)
            n[span.start : span.start + span.rows] = values
            x[span.start : span.start + span.rows] = (values % 251)[:, None]
            done += span.rows
        cursor = first + rows  # "all rows before this one are done"
        self.window.commit(spans, Label(task), produced_at_ns=1, cursor=cursor)

    @rule(most=st.integers(1, 20))
    def sender_runs(self, most: int) -> None:
        for _ in range(most):
            if self.session.wants_hello(self.now):
                self.send(self.upward, self.session.hello(self.now))
            elif (ping := self.session.ping(self.now)) is not None:
                self.send(self.upward, ping)
            elif (fragment := self.window.next_fragment()) is not None:
                self.send(self.upward, fragment.data())
            else:
                break

    @rule(
        most=st.integers(1, 20),
        quarantines=st.sampled_from([False] * 5 + [True]),
        is_full=st.sampled_from([False] * 5 + [True]),
    )
    def service_runs(self, most: int, quarantines: bool, is_full: bool) -> None:
        for _ in range(min(most, len(self.upward))):
            message = decode(self.upward.popleft())
            for answer in self.service.handle(message, quarantines, is_full):
                self.send(self.downward, answer)

    @rule(most=st.integers(1, 20))
    def sender_reads(self, most: int) -> None:
        for _ in range(min(most, len(self.downward))):
            if self.session.receive(decode(self.downward.popleft()), self.now):
                self.send(self.upward, self.session.hello(self.now))

    @rule(rows=st.integers(0, 50))
    def room_changes(self, rows: int) -> None:
        self.service.room_rows = rows

    @rule()
    def answers_are_lost(self) -> None:
        self.downward.clear()

    @rule()
    def data_is_lost(self) -> None:
        """Not on a healthy connection, but a full high water mark at a router can do it."""
        kept = [frames for frames in self.upward if len(frames) == 1]
        self.upward = deque(kept)

    @precondition(lambda self: any(len(frames) == 2 for frames in self.upward))
    @rule(data=st.data())
    def data_is_corrupted(self, data: st.DataObject) -> None:
        places = [i for i, frames in enumerate(self.upward) if len(frames) == 2]
        frames = self.upward[data.draw(st.sampled_from(places))]
        broken = bytearray(frames[1])
        broken[data.draw(st.integers(0, len(broken) - 1))] ^= 64
        frames[1] = bytes(broken)

    @rule()
    def connection_is_cut(self) -> None:
        self.upward.clear()
        self.downward.clear()
        self.session.lost()

    @rule()
    def service_saves(self) -> None:
        self.service.save()

    @rule()
    def service_is_killed(self) -> None:
        self.upward.clear()
        self.downward.clear()
        self.service.restart()
        self.restarted = True

    @rule(seconds=st.floats(0.1, 2.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        if self.session.silent(self.now):
            self.connection_is_cut()

    @invariant()
    def books_balance(self) -> None:
        if not hasattr(self, "window"):
            return
        books = self.window.books
        assert books.pushed_rows == self.window.next_row == (
            books.acknowledged_rows + books.quarantined_rows + books.dropped_rows_in_all
            + books.pending_rows
        )  # fmt: skip
        assert min(books.pending_rows, books.acknowledged_rows, books.quarantined_rows) >= 0
        rows = self.service.rows
        assert all(a < b for a, b in zip(rows, rows[1:], strict=False)), "order or duplicate"
        cursor = self.service.cursor
        assert cursor is None or cursor <= self.service.next_row, "a cursor ahead of its rows"

    @invariant()
    def memory_is_bounded(self) -> None:
        if hasattr(self, "window"):
            assert 0 <= self.window.pool.free_slabs <= self.window.pool.slabs

    def teardown(self) -> None:
        if not hasattr(self, "window"):
            return
        self.service.room_rows = 50
        for _ in range(400):
            self.sender_runs(20)
            self.service_runs(100, False, False)
            self.sender_reads(100)
            self.time_passes(0.6)
            if not self.window.books.pending_rows and self.session.state is SessionState.OPEN:
                break
        books, service = self.window.books, self.service
        assert books.pending_rows == 0, "the sender is stuck"
        tail = service.next_row + max(0, books.pushed_rows - service.next_row)
        assert tail == books.pushed_rows
        missing = books.pushed_rows - len(service.rows)
        if not self.restarted:
            assert service.lost_rows == 0
            assert missing == books.dropped_rows_in_all + service.quarantined_rows
            dropped_behind = books.pushed_rows - service.next_row
            assert service.gap_rows + dropped_behind == books.dropped_rows_in_all
        slabs = self.window.pool
        assert slabs.free_slabs >= slabs.slabs - 1, "memory leaks"


ExactlyOnce.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
test_exactly_once = ExactlyOnce.TestCase
