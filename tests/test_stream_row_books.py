"""The books on rows: positions that are trained, and the audit, over random lives of a buffer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from insitu.schema import Schema
from insitu.stream.audit import row_sum
from insitu.stream.buffer import StreamBuffer
from insitu.stream.pacing import FixedPace, FreePace
from insitu.stream.policies import FIFO, FIRO, Reservoir
from insitu.stream.row_books import RowBooks
from insitu.stream.stamp import Place, Stamp
from insitu.tasks import TaskLedger

SCHEMA = Schema.of({"x": ("int64", ())})
CAPACITY = 24


def make(kind: str) -> StreamBuffer:
    policy = {
        "fifo": lambda: FIFO(CAPACITY),
        "firo": lambda: FIRO(CAPACITY, watermark_samples=6),
        "reservoir": lambda: Reservoir(CAPACITY, watermark_samples=6),
    }[kind]()
    pace = FreePace(2.0, 0.0) if kind == "reservoir" else FixedPace(1.0)
    when_full = "drop_oldest" if kind == "firo" else "block"
    return StreamBuffer(
        SCHEMA, CAPACITY, policy, pace, TaskLedger(), when_full=when_full,
        generator=torch.Generator().manual_seed(1),
    )  # fmt: skip


class Life:
    """A buffer, and beside it what must be true, kept the plain way."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.buffer = make(kind)
        self.entered: dict[tuple[int, int], tuple[str, int]] = {}  # (record, row) -> whose batch
        self.seqs = {"a": 0, "b": 0}
        self.records = 0

    def push(self, producer: str, keep: list[bool]) -> None:
        reservation = self.buffer.reserve(len(keep))
        if reservation is None:
            return
        rows = [(self.records + 1, row) for row in range(len(keep))]
        reservation.write(0, b"".join(_row(record, row) for record, row in rows))
        self.seqs[producer] += 1
        self.records += 1
        stamp = Stamp(producer, 3, self.seqs[producer], None, self.seqs[producer] * 100)
        place = Place(self.records, self.records * 7)
        assert self.buffer.commit(reservation, stamp, keep=np.array(keep), place=place)
        kept = [place for place, wanted in zip(rows, keep, strict=True) if wanted]
        self.entered |= dict.fromkeys(kept, (producer, self.seqs[producer]))

    def draw(self, size: int) -> None:
        draw = self.buffer.draw(size, 0.0)
        if draw is not None:
            self.buffer.release(draw)

    def resume(self) -> None:
        state = self.buffer.state_dict()
        self.buffer = make(self.kind)
        self.buffer.load_state_dict(state)

    def check(self) -> None:
        """What entered is drawn, dropped or pending, each row once; positions follow from it."""
        state = self.buffer.state_dict()
        audit = state["audit"]
        scheduler = self.buffer._scheduler
        pending = {tuple(p) for p in self.buffer._ring.places[scheduler.unseen_slots()].tolist()}
        gone = np.array(sorted(self.entered.keys() - pending), np.int64).reshape(-1, 2)
        assert audit["drawn_rows"] + audit["dropped_rows"] == len(gone)
        total = (audit["drawn_sum"] + audit["dropped_sum"]) % 2**64
        assert total == row_sum(gone[:, 0], gone[:, 1])
        scheduler.books.stepped()
        for producer, newest in self.seqs.items():
            waiting = [self.entered[p][1] for p in pending if self.entered[p][0] == producer]
            expected = min(waiting) - 1 if waiting else newest
            assert self.buffer.trained(producer, 3) == expected
            assert self.buffer.trained(producer, 4) == 0
        assert self.buffer.place.record == self.records


def _row(record: int, row: int) -> bytes:
    return np.array([record * 1000 + row], np.int64).tobytes().ljust(SCHEMA.row_bytes, b"\0")


ACTIONS = st.one_of(
    st.tuples(
        st.just("push"), st.sampled_from("ab"), st.lists(st.booleans(), min_size=1, max_size=5)
    ),
    st.tuples(st.just("draw"), st.integers(1, 4)),
    st.tuples(st.just("resume")),
)


@pytest.mark.parametrize("kind", ["fifo", "firo", "reservoir"])
@settings(max_examples=60, deadline=None)
@given(actions=st.lists(ACTIONS, max_size=40))
def test_rows_come_off_the_books_once(kind: str, actions: list[tuple]) -> None:
    life = Life(kind)
    for name, *arguments in actions:
        getattr(life, name)(*arguments)
        life.check()


def test_a_batch_is_trained_when_its_step_is_over() -> None:
    books = RowBooks()
    books.entered(1, "a", 5, 1, rows=2)
    books.entered(2, "a", 5, 2, rows=1)
    books.drawn(np.array([[2, 0]]))
    books.stepped()
    assert books.trained("a", 5) == 0, "batch 1 waits, so nothing up to it is trained"
    books.drawn(np.array([[1, 1], [1, 0]]))
    assert books.trained("a", 5) == 0, "the step is under way"
    books.stepped()
    assert books.trained("a", 5) == 2
    assert books.trained("a", 6) == 0, "another life"
    assert books.trained("stranger", 1) == 0


def test_the_queue_of_a_producer_stays_small() -> None:
    books = RowBooks()
    books.entered(1, "a", 1, 1, rows=1)
    for record in range(2, 5000):
        books.entered(record, "a", 1, record, rows=1)
        books.drawn(np.array([[record, 0]]))
        books.stepped()
    assert len(books._queues["a"]) < 200
    assert books.trained("a", 1) == 0


def test_the_audit_tells_rows_apart() -> None:
    books = {name: RowBooks() for name in ("right", "twice")}
    for book in books.values():
        book.entered(1, "a", 1, 1, rows=2)
    books["right"].drawn(np.array([[1, 1], [1, 0]]))
    books["twice"].drawn(np.array([[1, 0], [1, 0]]))
    assert books["right"].audit["drawn_sum"] == row_sum(np.array([1, 1]), np.array([0, 1]))
    assert books["twice"].audit != books["right"].audit
