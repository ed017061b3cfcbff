"""A simulation that goes on behind its last cursor: rows that came in part before are left out."""

from __future__ import annotations

import logging
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from insitu.errors import ProducerError
from insitu.schema import Schema
from insitu.stream.stamp import Position, Stamp
from insitu.wire.batches import Label
from insitu.wire.capabilities import RESUMES, ROW_COUNTS
from insitu.wire.failover import Failover
from insitu.wire.messages import Hello, Welcome
from insitu.wire.receiver import Receiver, Write
from insitu.wire.rows import unpack_rows
from insitu.wire.sender import SendWindow
from insitu.wire.session import Identity, ProducerSession
from insitu_producers import Producer
from insitu_producers.resumption import Resumption
from insitu_service.ingest.greeting import Terms, began_elsewhere
from peer import Peer, wait_until

SCHEMA = Schema.of({"n": ("int64", ())})
ROW = SCHEMA.row_bytes
ANY, NOBODY = "tcp://127.0.0.1:*", "tcp://127.0.0.1:9"


def producer(endpoint: str, **how: Any) -> Producer:
    how = {"schema": SCHEMA, "linger_seconds": 20.0, "resumes": True} | how
    return Producer(endpoint, stream="s", producer_id="p", **how)


# -- every row once, whatever is pushed and whenever it dies ---------------------------------------


@dataclass
class Service:
    """What a service is to one producer: the greeting and the positions are the real ones."""

    rows: list[int] = field(default_factory=list)
    position: Position | None = None
    receiver: Receiver | None = None

    def greet(self, hello: Hello, most_rows: int, credit_rows: int) -> Welcome:
        terms = Terms(SCHEMA, frozenset({"s"}), None, 9, 3 * ROW, most_rows * ROW, "block")
        began = began_elsewhere(hello, self.position)
        if began is not None:
            self._settle(Stamp("p", hello.epoch, 0, began.cursor, 0), 0)
        receiver = terms.receiver(hello, 5, self.position)
        assert isinstance(receiver, Receiver)
        assert receiver.resume(hello) == 0
        place = self.position and (self.position.epoch, self.position.rows)
        if place != (hello.epoch, receiver.next_row):
            self._settle(Stamp("p", hello.epoch, 0, None, receiver.next_row), 0)
        self.receiver = receiver
        return terms.welcome(hello, receiver, self.position, credit_rows * ROW)

    def take(self, window: SendWindow, fragments: int, credit_rows: int) -> None:
        """As many fragments as arrive before the producer dies."""
        receiver, payload = self.receiver, b""
        assert receiver is not None
        for _ in range(fragments):
            outgoing = window.next_fragment()
            if outgoing is None:
                return
            data = outgoing.data()
            action = receiver.receive(data)
            assert isinstance(action, Write), action
            assert action.gap_rows == 0
            payload = bytes(data.payload) if action.begin else payload + bytes(data.payload)
            if action.complete:
                receiver.settled()
                self.rows += unpack_rows(SCHEMA, payload)["n"].tolist()
                self._settle(Stamp("p", 0, data.seq, data.cursor, data.first_row), data.rows)
                window.acknowledge(receiver.ack(credit_rows * ROW, 9))

    def _settle(self, stamp: Stamp, rows: int) -> None:
        before = self.position
        epoch = stamp.epoch or (before.epoch if before is not None else 0)
        stamp = Stamp("p", epoch, stamp.seq, stamp.cursor, stamp.first_row)
        self.position = stamp.position(rows, before)


def live(
    service: Service, epoch: int, pushes: list[tuple[int, bool]], fragments: int, most_rows: int,
    credit_rows: int,
) -> ProducerSession:  # fmt: skip
    """One run of a simulation, whose cursor is the number of its next row."""
    window = SendWindow(SCHEMA, 64 * ROW)
    session = ProducerSession(window, Identity("p", epoch, "s"), resumes=True)
    session.receive(service.greet(session.hello(0.0), most_rows, credit_rows), 0.0)
    assert session.rows_behind_cursor is not None
    resumption = Resumption(session.rows_behind_cursor)
    cursor = session.last_cursor or 0
    assert isinstance(cursor, int)
    for rows, tells in pushes:
        numbers = np.arange(cursor, cursor + rows)
        cursor += rows
        (new,), left, _ = resumption.leave_out([numbers], rows, None)
        spans = window.reserve(left)
        if spans is None:
            break
        done = 0
        for span in spans:
            part = new[done : done + span.rows]
            span.slab.fields[0][span.start : span.start + span.rows] = part
            done += span.rows
        if left:
            window.commit(spans, Label(), produced_at_ns=1, cursor=cursor if tells else None)
    service.take(window, fragments, credit_rows)
    return session


#: pushes (rows, whether they have a cursor), fragments that arrive, and what a batch may hold
lives = st.tuples(
    st.lists(st.tuples(st.integers(1, 12), st.booleans()), max_size=8),
    st.integers(0, 12),
    st.integers(1, 20),
    st.integers(1, 40),
)


@given(st.lists(lives, min_size=1, max_size=8), st.sets(st.integers(1, 8)))
def test_every_row_enters_once(runs: list[tuple[Any, ...]], crashes: set[int]) -> None:
    """A service that goes back to an older state is told the rows from there on once more."""
    service = Service()
    saved = copy(service)
    for epoch, (pushes, *how) in enumerate(runs, start=1):
        if epoch in crashes:
            service, service.rows = copy(saved), [*saved.rows]
        live(service, epoch, pushes, *how)
        assert service.rows == list(range(len(service.rows)))
        if epoch % 2:
            saved = copy(service)
            saved.rows = [*service.rows]
    last = live(service, 99, [(50, True)], 99, 99, 99)
    bye = last.bye()
    assert service.rows == list(range(len(service.rows)))
    assert service.receiver is not None
    assert service.receiver.ended(bye) == 0
    assert last.window.books.pushed_rows == last.window.books.acknowledged_rows


def test_a_cursor_is_told_with_the_last_row_that_it_is_complete_with() -> None:
    window = SendWindow(SCHEMA, 64 * ROW)
    for rows, cursor in ((3, "whole"), (2, None)):
        spans = window.reserve(rows)
        assert spans is not None
        window.commit(spans, Label(), produced_at_ns=1, cursor=cursor)
    (batch,) = window._unsent
    assert (batch.rows, batch.cursor) == (5, None)
    assert batch.whole_rows(5) == 3
    assert (batch.split(3).cursor, batch.cursor) == ("whole", None)


# -- what is said in HELLO and WELCOME -------------------------------------------------------------


def test_that_it_resumes_is_said_before_its_rows_have_numbers_only() -> None:
    window = SendWindow(SCHEMA, 64 * ROW)
    session = ProducerSession(window, Identity("p", 7, "s"), resumes=True)
    assert {ROW_COUNTS, RESUMES} <= set(session.hello(0.0).capabilities)
    welcome = Welcome(
        1, 5, 1, 40, 99 * ROW, 9, "received", 1 << 20, 1 << 20, "block", "crc32", 1.0, 6, 6
    )
    session.receive(welcome, 0.0)
    assert (session.last_cursor, session.rows_behind_cursor, window.next_row) == (40, 6, 6)
    assert window.first_available == (1, 6)
    session.lost()
    hello = session.hello(1.0)
    assert ROW_COUNTS in hello.capabilities
    assert RESUMES not in hello.capabilities
    assert (hello.first_available_seq, hello.first_available_row) == (1, 6)


def test_who_does_not_resume_begins_at_row_0() -> None:
    service = Service()
    live(service, 1, [(8, True), (5, True)], 3, 10, 10)
    assert service.position == Position(1, 1, 8, 8, 0)
    live(service, 2, [(5, True)], 1, 2, 2)
    assert service.position == Position(2, 1, 2, 8, 2)
    window = SendWindow(SCHEMA, 64 * ROW)
    session = ProducerSession(window, Identity("p", 3, "s"))
    session.receive(service.greet(session.hello(0.0), 10, 10), 0.0)
    assert (session.last_cursor, session.rows_behind_cursor, window.next_row) == (8, 0, 0)


def test_where_its_rows_begin_is_said_by_the_first_service_that_answers() -> None:
    """Also to one that had its greeting before, and whose answer was lost."""
    first, second = Service(), Service()
    live(first, 1, [(8, True), (9, True)], 6, 10, 20)
    assert first.position == Position(1, 2, 16, 8, 8)
    window = SendWindow(SCHEMA, 64 * ROW)
    session = ProducerSession(window, Identity("p", 2, "s"), Failover(2, 1.0), resumes=True)
    first.greet(session.hello(0.0), 10, 99)
    assert not session.turns(0.0)
    assert session.turns(2.0)
    session.receive(second.greet(session.hello(2.0), 10, 99), 2.0)
    assert (session.last_cursor, session.rows_behind_cursor) == (None, 0)
    assert not session.turns(2.5)
    for cursor in (1, 2):
        spans = window.reserve(1)
        assert spans is not None
        spans[0].slab.fields[0][spans[0].start] = 100 + cursor
        window.commit(spans, Label(str(cursor)), produced_at_ns=1, cursor=cursor)
    session.lost()
    assert not session.turns(3.0)
    assert session.turns(5.0)
    session.receive(first.greet(session.hello(5.0), 10, 99), 5.0)
    first.take(window, 9, 99)
    assert first.rows == [*range(16), 101, 102]
    assert first.position is not None
    assert first.position.rows == 2, "the service would tell of rows that it has not got"
    assert window.books.acknowledged_rows == 2


# -- the client ------------------------------------------------------------------------------------


def test_what_came_in_part_is_left_out() -> None:
    """Ids go with their rows; a push that is there as a whole is taken without being sent."""
    with Peer(ANY, max_batch_bytes=4 * ROW, credit_bytes=6 * ROW) as peer:
        with producer(peer.endpoint, linger_seconds=0) as first:
            first.wait_connected(30)
            first.push({"n": np.arange(3)}, cursor=3)
            first.flush(30)
            peer.credit_bytes = 0
            first.push({"n": np.arange(3, 6)})
            first.push({"n": np.arange(6, 20)}, cursor=20)
            wait_until(lambda: first.stats().accepted_row > 6)
            behind = first.stats().accepted_row - 3
        peer.credit_bytes = 99 * ROW
        with producer(peer.endpoint) as second:
            second.wait_connected(30)
            assert second.last_cursor == 3
            second.push({"n": np.arange(3, 6)}, sample_ids=np.arange(3, 6))
            assert second.stats().left_out_rows == 3
            assert second.push({"n": np.arange(6, 20)}, cursor=20, sample_ids=np.arange(6, 20))
            second.push_one({"n": 20}, sample_id=20)
            second.flush(30)
            stats = second.stats()
        before, after = peer.epochs
        wait_until(lambda: after.bye is not None)
    assert before.rows("n") + after.rows("n") == list(range(21))
    ids = b"".join(data.sample_ids or b"" for data, _ in after.batches)
    assert np.frombuffer(ids, "<i8").tolist() == after.rows("n")
    assert (stats.left_out_rows, stats.pushed_rows) == (behind, 18 - behind)
    assert stats.acknowledged_rows == stats.pushed_rows
    assert (after.gap_rows, after.lost_rows) == (0, 0)
    assert after.bye is not None
    assert after.bye.pushed_rows == after.next_row == 18


def test_without_resumes_nothing_is_left_out() -> None:
    with Peer(ANY) as peer:
        for _ in range(2):
            with producer(peer.endpoint, resumes=False) as p:
                p.push({"n": np.arange(3)})
                p.flush(30)
                assert p.stats().left_out_rows == 0
        assert [stored.rows("n") for stored in peer.epochs] == [[0, 1, 2]] * 2


def test_a_service_that_does_not_tell_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    """An older one: nothing is left out, and a bad batch counts as bad as a whole."""
    lacks = frozenset({ROW_COUNTS, RESUMES})
    with Peer(ANY, lacks=lacks, quarantine=lambda data: 1 * (data.rows == 5)) as peer:
        for _ in range(2):
            with (
                caplog.at_level(logging.WARNING, "insitu.producer"),
                producer(peer.endpoint) as p,
            ):
                p.wait_connected(30)
                p.push({"n": np.arange(3)})
                p.flush(30)
                p.push({"n": np.arange(5)})
                p.flush(30)
                stats = p.stats()
        assert [stored.rows("n") for stored in peer.epochs] == [[0, 1, 2]] * 2
    assert len([line for line in caplog.messages if "behind its last cursor" in line]) == 2
    assert (stats.acknowledged_rows, stats.quarantined_rows, stats.left_out_rows) == (3, 5, 0)


def test_a_service_that_tells_counts_the_bad_rows_of_a_batch() -> None:
    with (
        Peer(ANY, quarantine=lambda data: 2 * (data.rows == 5)) as peer,
        producer(peer.endpoint, resumes=False) as p,
    ):
        p.push({"n": np.arange(5)})
        p.flush(30)
        stats = p.stats()
    assert (stats.acknowledged_rows, stats.quarantined_rows) == (3, 2)
    assert (stats.acknowledged_batches, stats.quarantined_batches) == (1, 1)
    assert stats.acknowledged_bytes == 3 * ROW


def test_who_resumes_says_the_schema_and_waits_for_the_service() -> None:
    with pytest.raises(ProducerError, match="resumes has no schema"):
        producer(NOBODY, schema=None)
    with producer(NOBODY, linger_seconds=0) as p:
        with pytest.raises(ProducerError, match="wait_connected"):
            p.push({"n": [1]})
        assert p.stats().pushed_rows == 0


@pytest.mark.parametrize("taken", [False, True])
def test_a_window_that_survives_knows_what_is_behind_its_cursor(
    tmp_path: Path, taken: bool
) -> None:
    """Where no cursor is left in it, the service tells where the newest one is complete."""
    how: dict[str, Any] = {"window_directory": tmp_path}
    with Peer(ANY, full=lambda data: data.cursor is None or not taken) as peer:
        with producer(peer.endpoint, linger_seconds=0, **how) as p:
            p.wait_connected(30)
            p.push({"n": np.arange(3)}, cursor=3, task="a")
            p.push({"n": np.arange(3, 5)}, task="b")
            wait_until(lambda: p.stats().accepted_row == 3 * taken)
        peer.full = lambda data: False
        with producer(peer.endpoint, **how) as p:
            p.wait_connected(30)
            assert p.last_cursor == 3
            p.push({"n": np.arange(3, 8)}, cursor=8)
            p.flush(30)
            assert p.stats().left_out_rows == 2
        (stored,) = peer.epochs
    assert stored.rows("n") == list(range(8))
    assert (stored.gap_rows, stored.lost_rows) == (0, 0)


def test_where_a_window_begins_survives(tmp_path: Path) -> None:
    """The number of its first row is in the journal before a row can be."""
    with Peer(ANY) as peer:
        with producer(peer.endpoint) as p:
            p.wait_connected(30)
            p.push({"n": np.arange(4)})
            p.flush(30)
        how: dict[str, Any] = {"window_directory": tmp_path}
        peer.full = lambda data: True
        with producer(peer.endpoint, linger_seconds=0, **how) as p:
            p.wait_connected(30)
            p.push({"n": np.arange(6)})
        peer.full = lambda data: False
        with producer(peer.endpoint, **how) as p:
            p.wait_connected(30)
            p.push({"n": np.arange(7)}, cursor=7)
            p.flush(30)
            assert p.stats().left_out_rows == 6
    assert [stored.rows("n") for stored in peer.epochs] == [[0, 1, 2, 3], [4, 5, 6]]
    assert all(stored.gap_rows == stored.lost_rows == 0 for stored in peer.epochs)
