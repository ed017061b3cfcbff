"""Sender and receiver against each other over a network made of two lists, without any I/O.

A seeded generator pushes, delivers, corrupts, loses, cuts connections and restarts the service
in random order, with the work far more often than the mishaps so that both get deep. After that
the network heals, and every row must be at the service exactly once and in order, except those
that the books name.
"""

from __future__ import annotations

from collections import deque
from itertools import pairwise

import numpy as np
import pytest

from insitu.schema import Schema
from insitu.wire.batches import Label
from insitu.wire.codec import decode, encode
from insitu.wire.messages import Ack, Data, Hello, Message, NackCode, NoSession, Ping, Pong, Welcome
from insitu.wire.receiver import Duplicate, GoBack, Ignored, Receiver, Rejected, Write
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
                    fields = unpack_rows(SCHEMA, self.parts)
                    values = fields["n"].tolist()
                    assert (fields["x"] == (fields["n"] % 251)[:, None]).all()
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
            case Rejected():
                raise AssertionError(action)
        return answers


class Network:
    """One producer, one service, and what is under way between them."""

    def __init__(self, policy: str) -> None:
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

    def service_runs(self, most: int, quarantines: bool, is_full: bool) -> None:
        for _ in range(min(most, len(self.upward))):
            message = decode(self.upward.popleft())
            for answer in self.service.handle(message, quarantines, is_full):
                self.send(self.downward, answer)

    def sender_reads(self, most: int) -> None:
        for _ in range(min(most, len(self.downward))):
            if self.session.receive(decode(self.downward.popleft()), self.now):
                self.send(self.upward, self.session.hello(self.now))

    def room_changes(self, rows: int) -> None:
        self.service.room_rows = rows
        if self.service.receiver is not None:
            self.send(self.downward, self.service.ack())

    def answers_are_lost(self) -> None:
        self.downward.clear()

    def data_is_lost(self) -> None:
        """Not on a healthy connection, but a full high water mark at a router can do it."""
        kept = [frames for frames in self.upward if len(frames) == 1]
        self.upward = deque(kept)

    def data_is_corrupted(self, random: np.random.Generator) -> None:
        places = [i for i, frames in enumerate(self.upward) if len(frames) == 2]
        if not places:
            return
        frames = self.upward[int(random.choice(places))]
        broken = bytearray(frames[1])
        broken[int(random.integers(len(broken)))] ^= 64
        frames[1] = bytes(broken)

    def connection_is_cut(self) -> None:
        self.upward.clear()
        self.downward.clear()
        self.session.lost()

    def service_saves(self) -> None:
        self.service.save()

    def service_is_killed(self) -> None:
        self.upward.clear()
        self.downward.clear()
        self.service.restart()
        self.restarted = True

    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        if self.session.silent(self.now):
            self.connection_is_cut()

    def books_balance(self) -> None:
        books = self.window.books
        assert books.pushed_rows == self.window.next_row == (
            books.acknowledged_rows + books.quarantined_rows + books.dropped_rows_in_all
            + books.pending_rows
        )  # fmt: skip
        assert min(books.pending_rows, books.acknowledged_rows, books.quarantined_rows) >= 0
        rows = self.service.rows
        assert all(a < b for a, b in pairwise(rows)), "order or duplicate"
        cursor = self.service.cursor
        assert cursor is None or cursor <= self.service.next_row, "a cursor ahead of its rows"

    def memory_is_bounded(self) -> None:
        assert 0 <= self.window.pool.free_slabs <= self.window.pool.slabs

    def heal_and_check(self) -> None:
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


WEIGHTS = {
    "push": 30,
    "sender_runs": 30,
    "service_runs": 30,
    "sender_reads": 30,
    "time_passes": 16,
    "room_changes": 3,
    "answers_are_lost": 2,
    "data_is_lost": 2,
    "data_is_corrupted": 3,
    "connection_is_cut": 1,
    "service_saves": 1,
    "service_is_killed": 1,
}


def run(network: Network, random: np.random.Generator, steps: int, kills: bool) -> None:
    names = [name for name in WEIGHTS if kills or name != "service_is_killed"]
    weights = np.array([WEIGHTS[name] for name in names], float)
    for name in random.choice(names, steps, p=weights / weights.sum()):
        match name:
            case "push":
                rows = int(random.integers(1, 30))
                network.push(rows, str(random.choice(["a", "b"], p=[0.8, 0.2])))
            case "sender_runs" | "sender_reads":
                getattr(network, name)(int(random.integers(1, 60)))
            case "service_runs":
                most = int(random.integers(1, 60))
                network.service_runs(most, random.random() < 0.02, random.random() < 0.05)
            case "room_changes":
                network.room_changes(int(random.choice([0, 1, 7, 30, 50])))
            case "time_passes":
                network.time_passes(float(random.uniform(0.1, 1.2)))
            case "data_is_corrupted":
                network.data_is_corrupted(random)
            case _:
                getattr(network, name)()
        network.books_balance()
        network.memory_is_bounded()


@pytest.mark.parametrize("policy", ["drop_newest", "drop_oldest", "thin"])
@pytest.mark.parametrize("kills", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_every_row_arrives_once_and_in_order(policy: str, kills: bool, seed: int) -> None:
    network = Network(policy)
    run(network, np.random.default_rng(seed), 800, kills)
    network.heal_and_check()
    assert network.window.books.acknowledged_rows > 100, "the run got nowhere"
