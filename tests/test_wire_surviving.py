"""A producer that is killed at any instruction and started again, against a service that may lose
power: every row is at the service exactly once and in order, by a state machine of hypothesis.

The window's files are real. A kill inside of an operation happens at its write to the journal,
before or behind it; all other memory of the process is thrown away. What had been sent stays under
way and may arrive late, as it does from a kernel's buffers.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from insitu.wire.batches import Label
from insitu.wire.codec import decode, encode
from insitu.wire.messages import Ack, Message, Welcome
from insitu.wire.session import Identity, ProducerSession, SessionState
from insitu.wire.slabs import SlabPool
from insitu.wire.surviving import Operation, SurvivingWindow
from insitu_producers.window_file import WindowFile
from test_wire_exactly_once import ROW, SCHEMA, Service

WINDOW_BYTES = 64 * ROW


class Killed(BaseException):
    """The process is no more."""


class MortalFile(WindowFile):
    """Window files whose process dies at a chosen write."""

    writes_left: int | None = None
    dies_behind = False

    def write(self, operation: Operation, state: Callable[[], Operation]) -> None:
        if self.writes_left is not None:
            self.writes_left -= 1
            if self.writes_left <= 0 and not self.dies_behind:
                raise Killed
        super().write(operation, state)
        if self.writes_left is not None and self.writes_left <= 0:
            raise Killed


class LossyService(Service):
    """Promises `durable`, and forgets what it has not synced when it loses power."""

    durable = True

    def ack(self) -> Ack:
        assert self.receiver is not None
        return self.receiver.ack(self.room_rows * ROW, 4, durable=self.saved[0] - 1)

    def handle(self, message: Message, quarantines: bool, is_full: bool) -> list[Message]:
        answers = super().handle(message, quarantines, is_full)
        if not self.durable:
            self.save()  # the log of the level `logged` survives whatever kills the service
            return answers
        return [
            replace(answer, ack_level="durable") if isinstance(answer, Welcome) else answer
            for answer in answers
        ]


class KilledProducer(RuleBasedStateMachine):
    """A simulation that pushes its rows in order, and one service."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="window-"))
        self.service = LossyService()
        self.upward: deque[list[bytes]] = deque()
        self.late: deque[list[bytes]] = deque()
        self.downward: deque[list[bytes]] = deque()
        self.now = 1.0
        self.kills = 0
        self.kills_with_rows = 0

    @initialize(durable=st.booleans())
    def start(self, durable: bool) -> None:
        self.service.durable = durable
        self._begin()

    def _begin(self) -> None:
        """The life of a process begins; where to go on it knows from its window, or later."""
        self.file = MortalFile(self.directory, "s", "p")
        found = self.file.recover()
        if found is None:
            self.window, self.epoch = self.file.create(SCHEMA, 7, WINDOW_BYTES), 7
        else:
            self.window, self.epoch = found
        assert isinstance(self.window, SurvivingWindow)
        self.session = ProducerSession(self.window, Identity("p", self.epoch, "s"))
        cursor = self.window.newest_cursor
        self.next_row = cursor if isinstance(cursor, int) else None

    def _end(self) -> None:
        self.kills += 1
        self.kills_with_rows += self.window.books.pending_rows > 0
        self.file.close(remove=False)  # as the kernel does
        self.late.extend(self.upward)
        self.upward.clear()
        self.downward.clear()
        self._begin()

    def _alive(self, act: Callable[[], None]) -> None:
        """Run what may end in a kill."""
        try:
            act()
        except Killed:
            self._end()

    def _send(self, message: Message) -> None:
        self.upward.append([bytes(frame) for frame in encode(message)])

    # -- what happens ----------------------------------------------------------------------------

    @rule(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4), task=st.sampled_from("aab"))
    def push(self, sizes: list[int], task: str) -> None:
        for rows in sizes:
            self._alive(lambda rows=rows: self._push(rows, task))  # type: ignore[misc]

    def _push(self, rows: int, task: str) -> None:
        if self.next_row is None:
            if self.session.welcome is None:  # a simulation first asks where it is
                self._producer_sends(1)
                self.service_reads(50, False, 1)
                self._producer_reads(50)
            if self.session.welcome is None:
                return
            self.next_row = int(self.session.last_cursor or 0)
        label = Label(task)
        values = np.arange(self.next_row, self.next_row + rows)
        batch = self.window.growing(rows, label)
        if batch is not None:
            self._fill(batch.slab.fields, batch.slab.used_rows, values)
            self.next_row += rows
            self.window.grow(batch, rows, self.next_row)
            return
        spans = self.window.reserve(rows)
        if spans is None:
            return
        done = 0
        for span in spans:
            self._fill(span.slab.fields, span.start, values[done : done + span.rows])
            done += span.rows
        self.next_row += rows
        self.window.commit(spans, label, produced_at_ns=1, cursor=self.next_row)

    def _fill(self, fields: list[np.ndarray], start: int, values: np.ndarray) -> None:
        n, x = fields
        n[start : start + len(values)] = values
        x[start : start + len(values)] = (values % 251)[:, None]

    @rule(
        who=st.sampled_from(["producer", "service", "late", "reads"]),
        most=st.integers(1, 60),
        full=st.integers(0, 9),
    )
    def one_works(self, who: str, most: int, full: int) -> None:
        if who == "producer":
            self.producer_sends(most)
        elif who == "reads":
            self.producer_reads(most)
        else:
            self.service_reads(most, who == "late", full)

    def producer_sends(self, most: int) -> None:
        self._alive(lambda: self._producer_sends(most))

    def _producer_sends(self, most: int) -> None:
        for _ in range(most):
            if self.session.wants_hello(self.now):
                self._send(self.session.hello(self.now))
            elif (ping := self.session.ping(self.now)) is not None:
                self._send(ping)
            elif (fragment := self.window.next_fragment()) is not None:
                self._send(fragment.data())
            else:
                return

    def service_reads(self, most: int, late: bool, full: int) -> None:
        queue = self.late if late else self.upward
        for _ in range(min(most, len(queue))):
            for answer in self.service.handle(decode(queue.popleft()), False, full == 0):
                if not late:
                    self.downward.append([bytes(frame) for frame in encode(answer)])

    def producer_reads(self, most: int) -> None:
        self._alive(lambda: self._producer_reads(most))

    def _producer_reads(self, most: int) -> None:
        for _ in range(min(most, len(self.downward))):
            if self.session.receive(decode(self.downward.popleft()), self.now):
                self._send(self.session.hello(self.now))

    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        if self.session.silent(self.now):
            self.connection_is_cut()

    def connection_is_cut(self) -> None:
        self.upward.clear()
        self.downward.clear()
        self.session.lost()

    @rule(
        what=st.sampled_from(["cut", "kill", "kill", "at a write", "at a write", "power"]),
        writes=st.integers(1, 6),
        behind=st.booleans(),
    )
    def mishap(self, what: str, writes: int, behind: bool) -> None:
        """A bad network, a kill between two instructions or inside of one, a loss of power."""
        if what == "cut":
            self.connection_is_cut()
        elif what == "kill":
            self._end()
        elif what == "at a write":
            self.file.writes_left, self.file.dies_behind = writes, behind
        else:
            self.service_loses_power()

    @rule(rounds=st.integers(1, 4), seconds=st.floats(0.0, 1.0), syncs=st.booleans())
    def all_work(self, rounds: int, seconds: float, syncs: bool) -> None:
        for _ in range(rounds):
            self.producer_sends(50)
            self.service_reads(50, False, 1)
            self.producer_reads(50)
            self.time_passes(seconds)
        if syncs:
            self.service.save()

    def service_loses_power(self) -> None:
        self.connection_is_cut()
        self.late.clear()
        self.service.restart()

    # -- what must hold --------------------------------------------------------------------------

    @invariant()
    def nothing_is_doubled_or_missing_so_far(self) -> None:
        assert self.service.rows == list(range(len(self.service.rows)))
        assert self.service.lost_rows == 0

    def teardown(self) -> None:
        try:
            self._heal()
        finally:
            self.file.close(remove=True)
            shutil.rmtree(self.directory, ignore_errors=True)

    def _heal(self) -> None:
        self.file.writes_left = None
        for _ in range(300):
            self._producer_sends(50)
            self.service_reads(200, False, 1)
            self.service.save()
            self._producer_reads(200)
            self.time_passes(0.6)
            if not self.window.books.pending_rows and self.session.state is SessionState.OPEN:
                break
        assert self.window.books.pending_rows == 0, "the producer is stuck"
        assert self.service.rows == list(range(self.window.next_row))
        assert self.next_row is None or self.next_row <= self.window.next_row
        free = self.window.pool.free_slabs
        assert free >= self.window.pool.slabs - 1, "memory leaks"


#: 1,000 for the long run
LIVES = int(os.environ.get("INSITU_PRODUCER_LIVES", "30"))
KilledProducer.TestCase.settings = settings(max_examples=LIVES, stateful_step_count=60)
TestKilledProducer = KilledProducer.TestCase


def test_what_was_let_go_of_is_gone_in_the_next_life_and_its_memory_free(tmp_path: Path) -> None:
    """Else a service that went back would be sent rows that have been overwritten since."""
    file = WindowFile(tmp_path, "s", "p")
    window = file.create(SCHEMA, 7, WINDOW_BYTES)
    window.open(
        Welcome(1, 5, 1, None, 1 << 20, 99, "received", 1 << 20, 16 * ROW, "", "crc32", 1.0)
    )
    for task in "abcd":
        spans = window.reserve(16)
        assert spans is not None
        window.commit(spans, Label(task), produced_at_ns=1, cursor=task)
        while window.next_fragment() is not None:
            pass
    window.acknowledge(Ack(5, 3, 0, 0, 1 << 20, 99))
    assert window.reserve(16) is not None
    file.close(remove=False)
    file = WindowFile(tmp_path, "s", "p")
    found = file.recover()
    assert found is not None
    window, epoch = found
    assert (epoch, window.first_available, window.newest_cursor) == (7, (4, 48), "d")
    assert window.room_rows() == 48
    assert window.books.acknowledged_rows == 48
    file.close(remove=True)


def test_a_journal_of_before_is_understood(tmp_path: Path) -> None:
    """It did not say how many rows of a batch were bad: all of them."""
    file = WindowFile(tmp_path, "s", "p")
    window = file.create(SCHEMA, 7, WINDOW_BYTES)
    state = window.state()
    file.close(remove=True)
    label = ["", 0, False]
    operations = [
        state, ["push", [[0, 0, 5]], label, 1, 5, b""], ["take", 5],
        ["push", [[0, 5, 3]], label, 1, 8, b""], ["take", 3],
        ["quarantine", 0, "range"], ["release", 2],
    ]  # fmt: skip
    again = SurvivingWindow(SCHEMA, SlabPool.sized(SCHEMA, WINDOW_BYTES, 1 << 16), file)
    again.replay(operations)
    books = again.books
    assert (books.quarantined_rows, books.acknowledged_rows, books.pending_rows) == (5, 3, 0)
