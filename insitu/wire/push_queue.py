"""What was pushed and not sent yet: rows are reserved, written and committed, and pushes merge.

Rows are reserved in slabs, written there by the caller, and committed; committed pushes of one
task merge into the last batch as long as nobody has sent it ("smart batching": nothing waits
while the sender is idle, and while it is behind small pushes become large messages).

No I/O, no clock, no lock: one caller at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from insitu.schema import Schema
from insitu.wire.batches import Batch, Books, Label, Span
from insitu.wire.slabs import Slab, SlabPool
from insitu.wire.values import MAX_BATCH_ROWS, Cursor


class PushQueue:
    """The memory of a producer and the batches in it that were never sent.

    Args:
        schema: of the rows.
        window_bytes: memory for rows; allocated as needed, then kept.
        pool: that memory, where it is not to be this process's own.
    """

    def __init__(
        self, schema: Schema, window_bytes: int = 64 << 20, *, pool: SlabPool | None = None
    ) -> None:
        self.schema = schema
        self.pool = pool or SlabPool.sized(schema, window_bytes, MAX_BATCH_ROWS)
        self.books = Books()
        self.next_row = 0
        self._tail: Slab | None = None
        self._unsent: deque[Batch] = deque()

    def room_rows(self) -> int:
        """Rows that can be reserved now."""
        tail = self._tail.rows - self._tail.used_rows if self._tail is not None else 0
        return tail + self.pool.free_slabs * self.pool.slab_rows

    def reserve(self, rows: int) -> list[Span] | None:
        """Memory for `rows` rows, to be written and committed in this order; None if full."""
        if rows > self.room_rows():
            return None
        spans = []
        while rows:
            slab = self._tail
            if slab is None or slab.used_rows == slab.rows:
                slab = self._tail = self.pool.take()
            taken = min(rows, slab.rows - slab.used_rows)
            spans.append(Span(slab, slab.used_rows, taken))
            slab.used_rows += taken
            slab.users += 1
            rows -= taken
        return spans

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
        """Hand written spans over for sending; the cursor goes with the last row.

        Args:
            digests: (kind, value) of the checksum of each span, where it is known.
            sample_ids: int64, little-endian, one a row, when `label.identified`.
        """
        done = 0
        for index, span in enumerate(spans):
            last = span is spans[-1]
            batch = Batch(
                span.slab, span.start, span.rows, self.next_row, label, produced_at_ns,
                [(span.rows, cursor)] if last and cursor is not None else [],
                bytearray(sample_ids[8 * done : 8 * (done + span.rows)]),
                digests[index] if digests else None,
            )  # fmt: skip
            done += span.rows
            self._append(batch)
        self.books.pushed_bytes += done * self.schema.row_bytes
        self.books.pushed_batches += 1

    def _append(self, batch: Batch) -> None:
        self.next_row += batch.rows
        self.books.pushed_rows += batch.rows
        self.books.pending_rows += batch.rows
        last = self._unsent[-1] if self._unsent else None
        if (
            last is not None
            and last.slab is batch.slab
            and last.label == batch.label
            and last.start + last.rows == batch.start
            and last.first_row + last.rows == batch.first_row
            and last.rows + batch.rows <= self.pool.slab_rows
        ):
            last.append(batch)
            batch.slab.users -= 1
        else:
            self._unsent.append(batch)

    def growing(self, rows: int, label: Label) -> Batch | None:
        """The last batch, when a push of `rows` rows can be written right behind it.

        The short way for small pushes: no reservation, no batch that would only be merged.
        """
        batch = self._unsent[-1] if self._unsent else None
        if batch is None or batch.slab is not self._tail:
            return None
        if batch.label is not label and batch.label != label:
            return None
        end = batch.start + batch.rows
        fits = end == batch.slab.used_rows and end + rows <= batch.slab.rows
        return batch if fits and batch.first_row + batch.rows == self.next_row else None

    def grow(self, batch: Batch, rows: int, cursor: Cursor = None, sample_ids: bytes = b"") -> None:
        """Take `rows` rows that were written behind the batch that `growing` gave."""
        batch.slab.used_rows += rows
        batch.rows += rows
        batch.digest = None
        if cursor is not None:
            batch.add_cursor(cursor)
        if sample_ids:
            batch.sample_ids += sample_ids
        self.next_row += rows
        books = self.books
        books.pushed_rows += rows
        books.pending_rows += rows
        books.pushed_bytes += rows * self.schema.row_bytes
        books.pushed_batches += 1

    def abandon(self, spans: list[Span]) -> None:
        """Give reserved memory back unwritten; the push did not happen."""
        for span in spans:
            self._free(span.slab)

    def drop_push(self, reason: str, rows: int) -> None:
        """Count rows that were pushed and are not kept."""
        self.next_row += rows
        self.books.pushed_rows += rows
        self.books.pushed_batches += 1
        self.books.pushed_bytes += rows * self.schema.row_bytes
        self.books.drop(reason, rows)

    def drop_oldest_unsent(self, reason: str) -> bool:
        """Drop the oldest batch that was never sent; False when there is none."""
        if not self._unsent:
            return False
        batch = self._unsent.popleft()
        self.books.drop(reason, batch.rows)
        self._let_go(batch)
        return True

    def _let_go(self, batch: Batch) -> None:
        self.books.pending_rows -= batch.rows
        self._free(batch.slab)

    def _free(self, slab: Slab) -> None:
        slab.users -= 1
        if slab.users:
            return
        if slab is self._tail:
            slab.used_rows = 0  # start over in the memory that is still in the cache
        else:
            self.pool.give_back(slab)
