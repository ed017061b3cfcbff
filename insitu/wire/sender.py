"""The producer's side of a stream as a state machine: what is pushed, sent and let go of.

Rows are reserved in slabs, written there by the caller, and committed; committed pushes of one
task merge into the last batch as long as nobody has sent it ("smart batching": nothing waits
while the sender is idle, and while it is behind small pushes become large messages). A batch is
given its sequence number when it is first sent, so pushes that are dropped before leave a gap in
the rows but none in the sequence; a batch that was sent is never dropped.

Credit is a position in the session: batch n may be sent once the payload bytes and the number of
all batches from the session's first to n are within `credit_bytes` and `credit_batches`. Sending
a batch again does not move its position, so resends need no credit and lost acks cost nothing.

No I/O, no clock, no lock: one caller at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from insitu.schema import Schema
from insitu.wire.batches import Batch, Books, Label, Outgoing, Span
from insitu.wire.messages import Ack, AckLevel, Nack, NackCode, Welcome
from insitu.wire.slabs import Slab, SlabPool
from insitu.wire.values import MAX_BATCH_ROWS, Cursor


class SendWindow:
    """Everything that was pushed and is not let go of yet, at most `window_bytes` of it.

    Args:
        schema: of the rows.
        window_bytes: memory for rows; allocated as needed, then kept.
    """

    def __init__(self, schema: Schema, window_bytes: int = 64 << 20) -> None:
        self.schema = schema
        self.pool = SlabPool(schema, window_bytes, MAX_BATCH_ROWS)
        self.books = Books()
        self.next_row = 0
        self.accepted = 0
        self.durable = 0
        self.trained = 0
        self.credit_bytes = 0
        self.credit_batches = 0
        self.holding = False
        self.draining = False
        self._tail: Slab | None = None
        self._unsent: deque[Batch] = deque()
        self._in_flight: deque[Batch] = deque()
        self._next_seq = 1
        self._base_seq = 1
        self._position_bytes = 0
        self._session: Welcome | None = None
        self._transmitted = 0  # how many of `_in_flight` need no (re)sending
        self._fragment = 0

    # -- pushing ---------------------------------------------------------------------------

    @property
    def checksum_kind(self) -> str | None:
        """What the service wants now; None without a session."""
        session = self._session
        return session.checksum if session is not None else None

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
        if batch is None or batch.slab is not self._tail or batch.label != label:
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

    def drop_all(self, reason: str) -> None:
        """Give up everything that is pending, sent or not: the end of the producer."""
        self._return_in_flight()
        while self.drop_oldest_unsent(reason):
            pass

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

    # -- sending ---------------------------------------------------------------------------

    def next_fragment(self) -> Outgoing | None:
        """The next fragment to send, or None: nothing to send, or no credit for it."""
        session = self._session
        if session is None or self.holding:
            return None
        if self._transmitted == len(self._in_flight) and not self._start_batch(session):
            return None
        batch = self._in_flight[self._transmitted]
        fragments = -(-batch.payload_bytes // session.max_fragment_bytes)
        outgoing = Outgoing(
            batch, session.session, session.checksum, self._fragment, fragments,
            session.max_fragment_bytes,
        )  # fmt: skip
        self._fragment += 1
        if self._fragment == fragments:
            self._fragment = 0
            self._transmitted += 1
            self.books.sent_batches += 1
            self.books.sent_bytes += batch.payload_bytes
            self.books.resent_batches += batch.sent_times > 0
            batch.sent_times += 1
        return outgoing

    def _start_batch(self, session: Welcome) -> bool:
        """Move the next unsent batch, or as much of it as may be sent, into flight."""
        if not self._unsent or self.draining:
            return False
        batch = self._unsent[0]
        wanted = min(batch.rows, max(1, session.max_batch_bytes // batch.slab.row_bytes))
        rows = min(wanted, self.credit_rows())
        # Not a sliver while an ack with more credit is on its way (silly window syndrome).
        if rows == 0 or (rows < wanted and self._in_flight):
            return False
        if rows < batch.rows:
            batch = batch.split(rows)
        else:
            self._unsent.popleft()
        batch.seq = self._next_seq
        self._next_seq += 1
        self._position_bytes += batch.payload_bytes
        batch.position_bytes = self._position_bytes
        self._in_flight.append(batch)
        return True

    def credit_rows(self) -> int:
        """Rows for which there is credit beyond all that was sent."""
        if self._next_seq - self._base_seq >= self.credit_batches:
            return 0
        return max(0, self.credit_bytes - self._position_bytes) // self.schema.row_bytes

    def needed_bytes(self) -> int:
        """Payload bytes that wait for credit; 0 when nothing does."""
        if self._transmitted < len(self._in_flight) or not self._unsent:
            return 0
        return self._unsent[0].payload_bytes

    # -- what the service says ---------------------------------------------------------------

    @property
    def sent_seq(self) -> int:
        """The newest sequence number given out; 0 for none."""
        return self._next_seq - 1

    @property
    def first_available(self) -> tuple[int, int]:
        """Sequence number and first row of the oldest batch that is still here (or will be)."""
        if self._in_flight:
            return self._in_flight[0].seq, self._in_flight[0].first_row
        if self._unsent:
            return self._next_seq, self._unsent[0].first_row
        return self._next_seq, self.next_row

    def open(self, welcome: Welcome) -> None:
        """Begin a session: what the service has is let go of, all else is sent anew.

        Batches from `next_seq` on were accepted by nobody, so they become unsent again and may
        get other sequence numbers and other cuts.
        """
        self._release(welcome.next_seq - 1)
        self._return_in_flight()
        self._session = welcome
        self._next_seq = self._base_seq = welcome.next_seq
        self.accepted = welcome.next_seq - 1
        self._position_bytes = 0
        self.credit_bytes = welcome.credit_bytes
        self.credit_batches = welcome.credit_batches
        self.holding = self.draining = False

    def suspend(self) -> None:
        """End the session; pushes go on."""
        self._session = None

    def _return_in_flight(self) -> None:
        for batch in self._in_flight:
            batch.refused = ""
        self._unsent.extendleft(reversed(self._in_flight))
        self._in_flight.clear()
        self._transmitted = self._fragment = 0

    def acknowledge(self, ack: Ack) -> int:
        """Take over cumulative acks and credit; returns how many batches were let go of."""
        self.holding = False
        self.accepted = max(self.accepted, min(ack.accepted, self.sent_seq))
        self.durable = max(self.durable, min(ack.durable, self.sent_seq))
        self.trained = max(self.trained, min(ack.trained, self.sent_seq))
        self.credit_bytes = max(self.credit_bytes, ack.credit_bytes)
        self.credit_batches = max(self.credit_batches, ack.credit_batches)
        received = self._session is None or self._session.ack_level == AckLevel.RECEIVED
        return self._release(self.accepted if received else self.durable)

    def _release(self, upto_seq: int) -> int:
        released = 0
        while self._in_flight and self._in_flight[0].seq <= upto_seq:
            batch = self._in_flight.popleft()
            self._settle(batch)
            self._let_go(batch)
            released += 1
            if self._transmitted:
                self._transmitted -= 1
            else:
                self._fragment = 0
        return released

    def _settle(self, batch: Batch) -> None:
        if batch.refused:
            self.books.quarantined_rows += batch.rows
            self.books.quarantined_batches += 1
        else:
            self.books.acknowledged_rows += batch.rows
            self.books.acknowledged_batches += 1
            self.books.acknowledged_bytes += batch.payload_bytes

    def refuse(self, nack: Nack) -> None:
        """Go back to a batch, or note that the service settled it without taking it."""
        index = nack.seq - self._in_flight[0].seq if self._in_flight else -1
        if not 0 <= index < len(self._in_flight):
            return
        if not nack.resend:
            self._in_flight[index].refused = nack.code
            return
        self._go_back(index)
        self.holding = nack.code == NackCode.FULL

    def _go_back(self, index: int) -> None:
        if index <= self._transmitted:
            self._transmitted = index
            self._fragment = 0

    def handled(self, sent_seq: int) -> None:
        """A PONG says that all up to its PING was handled; what is not accepted now was lost.

        Args:
            sent_seq: `transmitted_seq` when the PING was sent.
        """
        if self.accepted < sent_seq and self._in_flight:
            self._go_back(max(0, self.accepted + 1 - self._in_flight[0].seq))

    @property
    def transmitted_seq(self) -> int:
        """The newest batch all of whose fragments were handed out, going back included."""
        if not self._in_flight:
            return self.sent_seq
        return self._in_flight[0].seq + self._transmitted - 1
