"""A send window that outlives its process: what changes it is written down before it changes.

The rows lie in memory that the process shares with a file, so they survive its death as they
are. What they are, which batch they went out in and what was let go of is a short *journal* of
operations; played again it gives the same window. The journal is written first, so a kill between
any two instructions leaves either the state before an operation or the one behind it:

- a push is in the journal when its rows are whole, and exists from then on;
- a batch's number is in the journal before its first byte can reach a service, so what a service
  says of batch n means the same rows in the next life;
- memory is used again only after the journal says that it is free.

The next life goes on in the same epoch, so the service's count of batches decides what is sent
again. Two lives at a time must not be; whoever keeps the file sees to that (a lock).

No I/O here: the journal is handed in. Loss of power is not survived, as nothing is synced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any, Protocol

from insitu.schema import Schema
from insitu.wire.batches import Batch, Books, Label, Span
from insitu.wire.marks import RowMarks
from insitu.wire.sender import SendWindow
from insitu.wire.slabs import Slab, SlabPool
from insitu.wire.values import Cursor

#: plain data that msgpack takes: [name, argument, ...]
Operation = list[Any]


class Journal(Protocol):
    """Where operations are written; they survive the process once `write` has returned."""

    def write(self, operation: Operation, state: Callable[[], Operation]) -> None:
        """Append; where there is no room begin anew with the state before the operation.

        Raises an `InsituError` when it cannot; then nothing was written.
        """
        ...


class SurvivingWindow(SendWindow):
    """A send window with a journal.

    Args:
        schema: of the rows.
        pool: memory that survives.
        journal: where operations go; replay goes before the first other call.
    """

    def __init__(self, schema: Schema, pool: SlabPool, journal: Journal) -> None:
        super().__init__(schema, pool=pool)
        self._journal = journal
        #: whose numbers the batches have
        self.service = ""
        self._replaying: list[Slab] = []

    def _write(self, *operation: Any) -> None:
        self._journal.write(list(operation), self.state)

    # -- operations, each written before it is done ----------------------------------------------

    def commit(
        self,
        spans: list[Span],
        label: Label,
        *,
        produced_at_ns: int,
        cursor: Cursor = None,
        sample_ids: bytes = b"",
        digests: Sequence[tuple[str, int] | None] = (),
    ) -> None:
        places = [[span.slab.number, span.start, span.rows] for span in spans]
        self._write("push", places, _label(label), produced_at_ns, cursor, sample_ids)
        super().commit(
            spans,
            label,
            produced_at_ns=produced_at_ns,
            cursor=cursor,
            sample_ids=sample_ids,
            digests=digests,
        )

    def grow(self, batch: Batch, rows: int, cursor: Cursor = None, sample_ids: bytes = b"") -> None:
        place = [batch.slab.number, batch.start + batch.rows, rows]
        self._write("push", [place], _label(batch.label), batch.produced_at_ns, cursor, sample_ids)
        super().grow(batch, rows, cursor, sample_ids)

    def begin_at(self, row: int) -> None:
        if row:
            self._write("begin_at", row)
        super().begin_at(row)

    def drop_push(self, reason: str, rows: int) -> None:
        self._write("drop_push", reason, rows)
        super().drop_push(reason, rows)

    def drop_oldest_unsent(self, reason: str) -> bool:
        if self._unsent:
            self._write("drop_oldest_unsent", reason)
        return super().drop_oldest_unsent(reason)

    def use_service(self, name: str) -> None:
        if name != self.service:
            self._write("use_service", name)
        self.service = name
        super().use_service(name)

    def _take(self, rows: int) -> None:
        self._write("take", rows)
        super()._take(rows)

    def _reopen(self, next_seq: int, *, keeps: bool, next_row: int | None = None) -> None:
        self._write("reopen", next_seq, keeps, next_row)
        super()._reopen(next_seq, keeps=keeps, next_row=next_row)

    def _release(self, upto_seq: int) -> int:
        if self._in_flight and self._in_flight[0].seq <= upto_seq:
            self._write("release", upto_seq)
        return super()._release(upto_seq)

    def _quarantine(self, index: int, code: str, rows: int) -> None:
        self._write("quarantine", index, code, rows)
        super()._quarantine(index, code, rows)

    # -- the next life ---------------------------------------------------------------------------

    @property
    def newest_cursor(self) -> Cursor:
        """The newest cursor of what is still here; None when nothing here has one."""
        return self._newest_place()[0]

    @property
    def rows_behind_cursor(self) -> int:
        """How many rows were pushed behind `newest_cursor`."""
        return self.next_row - self._newest_place()[1]

    def _newest_place(self) -> tuple[Cursor, int]:
        """The newest cursor here, and the row behind the last one that it is complete with."""
        for batches in (self._unsent, self._in_flight):
            for batch in reversed(batches):
                if batch.cursors:
                    end, cursor = batch.cursors[-1]
                    return cursor, batch.first_row + end
        return None, 0

    def state(self) -> Operation:
        """The whole window but its rows, as the operation that a journal begins with."""
        marks = {name: marks.state() for name, marks in self._marks_of.items()}
        return [
            "state", self.next_row, asdict(self.books), self.service, marks,
            [_plain(batch) for batch in self._in_flight], [_plain(batch) for batch in self._unsent],
        ]  # fmt: skip

    def replay(self, operations: Iterable[Operation]) -> None:
        """Become what the journal says; `SlabPool.adopt`s the memory."""
        journal, self._journal = self._journal, _Silent()
        self._replaying = self.pool.adopt()
        for name, *arguments in operations:
            getattr(self, f"_replay_{name}")(*arguments)
        self.pool.settle(self._replaying)
        self._replaying = []
        self._transmitted = len(self._in_flight)
        self._journal = journal

    def _replay_state(
        self, next_row: int, books: dict[str, Any], service: str, marks: dict[str, list[Any]],
        in_flight: list[list[Any]], unsent: list[list[Any]],
    ) -> None:  # fmt: skip
        self.next_row, self.books = next_row, Books(**books)
        self._marks_of = {name: RowMarks(*state) for name, state in marks.items()}
        self._replay_use_service(service)
        self._in_flight.extend(self._batch(*fields) for fields in in_flight)
        self._unsent.extend(self._batch(*fields) for fields in unsent)

    def _batch(
        self, number: int, start: int, rows: int, first_row: int, label: list[Any],
        produced_at_ns: int, cursors: list[list[Any]], ids: bytes, seq: int, refused: str,
        refused_rows: int | None = None,
    ) -> Batch:  # fmt: skip
        slab = self._replaying[number]
        slab.users += 1
        return Batch(
            slab, start, rows, first_row, Label(*label), produced_at_ns,
            [(end, cursor) for end, cursor in cursors], bytearray(ids),
            seq=seq, sent_times=1, refused=refused,
            refused_rows=(rows if refused else 0) if refused_rows is None else refused_rows,
        )  # fmt: skip

    def _replay_push(
        self, places: list[list[int]], label: list[Any], produced_at_ns: int, cursor: Cursor,
        ids: bytes,
    ) -> None:  # fmt: skip
        spans = []
        for number, start, rows in places:
            slab = self._replaying[number]
            slab.users += 1
            spans.append(Span(slab, start, rows))
        super().commit(
            spans, Label(*label), produced_at_ns=produced_at_ns, cursor=cursor, sample_ids=ids
        )

    def _replay_drop_push(self, reason: str, rows: int) -> None:
        self.drop_push(reason, rows)

    def _replay_drop_oldest_unsent(self, reason: str) -> None:
        self.drop_oldest_unsent(reason)

    def _replay_use_service(self, name: str) -> None:
        self.use_service(name)

    def _replay_take(self, rows: int) -> None:
        self._take(rows)

    def _replay_reopen(self, next_seq: int, keeps: bool, next_row: int | None = None) -> None:
        self._reopen(next_seq, keeps=keeps, next_row=next_row)

    def _replay_release(self, upto_seq: int) -> None:
        self._release(upto_seq)

    def _replay_quarantine(self, index: int, code: str, rows: int | None = None) -> None:
        self._quarantine(index, code, self._in_flight[index].rows if rows is None else rows)

    def _replay_begin_at(self, row: int) -> None:
        self.begin_at(row)


class _Silent:
    """Swallows what is played again."""

    def write(self, operation: Operation, state: Callable[[], Operation]) -> None:
        pass


def _label(label: Label) -> list[Any]:
    return [label.task, label.flags, label.identified]


def _plain(batch: Batch) -> list[Any]:
    return [
        batch.slab.number, batch.start, batch.rows, batch.first_row, _label(batch.label),
        batch.produced_at_ns, [list(pair) for pair in batch.cursors], bytes(batch.sample_ids),
        batch.seq, batch.refused, batch.refused_rows,
    ]  # fmt: skip
