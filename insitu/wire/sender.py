"""The producer's side of a stream as a state machine: what is sent, sent again and let go of.

`PushQueue` holds what was pushed; here batches get their numbers and leave. A batch is given its
sequence number when it is first sent, so pushes that are dropped before leave a gap in the rows
but none in the sequence; a batch that was sent is never dropped.

Credit is a position in the session: batch n may be sent once the payload bytes and the number of
all batches from the session's first to n are within `credit_bytes` and `credit_batches`. Sending
a batch again does not move its position, so resends need no credit and lost acks cost nothing.

A batch is let go of when the service has *accepted* it, or, where the service promises `durable`,
when it is on the service's disk. Sequence numbers belong to one service and rows to the producer;
`RowMarks` translate, so another service (`use_service`) can go on where this one stood.

No I/O, no clock, no lock: one caller at a time.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque

from insitu.schema import Schema
from insitu.wire.batches import Batch, Outgoing
from insitu.wire.marks import RowMarks
from insitu.wire.messages import Ack, AckLevel, Nack, NackCode, Welcome
from insitu.wire.push_queue import PushQueue
from insitu.wire.slabs import SlabPool


class SendWindow(PushQueue):
    """Everything that was pushed and is not let go of yet, at most `window_bytes` of it.

    Args:
        schema: of the rows.
        window_bytes: memory for rows; allocated as needed, then kept.
        pool: that memory, where it is not to be this process's own.
    """

    def __init__(
        self, schema: Schema, window_bytes: int = 64 << 20, *, pool: SlabPool | None = None
    ) -> None:
        super().__init__(schema, window_bytes, pool=pool)
        self.accepted = 0
        self.durable = 0
        self.trained = 0
        self.trained_row = 0
        self.credit_bytes = 0
        self.credit_batches = 0
        self.holding = False
        self.draining = False
        #: of the service that is used now, and of every one that was
        self._marks = RowMarks()
        self._marks_of = {"": self._marks}
        self._in_flight: deque[Batch] = deque()
        self._base_seq = 1
        self._position_bytes = 0
        self._session: Welcome | None = None
        self._first_ack = True
        self._transmitted = 0  # how many of `_in_flight` need no (re)sending
        self._fragment = 0

    @property
    def checksum_kind(self) -> str | None:
        """What the service wants now; None without a session."""
        session = self._session
        return session.checksum if session is not None else None

    def begin_at(self, row: int) -> None:
        """The first row that will be pushed has this number; before anything is pushed."""
        assert not self.next_row
        self.next_row = row
        self._marks = RowMarks(base_row=row)
        self._marks_of = dict.fromkeys(self._marks_of, self._marks)

    def drop_all(self, reason: str) -> None:
        """Give up everything that is pending, sent or not: the end of the producer."""
        self._release(self.accepted)
        self._return_in_flight()
        while self.drop_oldest_unsent(reason):
            pass

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
        wanted = self._wanted_rows(session)
        rows = min(wanted, self.credit_rows())
        # Not a sliver while an ack with more credit is on its way (silly window syndrome).
        awaited = bool(self._in_flight) and self._in_flight[-1].seq > self.accepted
        if rows == 0 or (rows < wanted and awaited):
            return False
        self._take(self._unsent[0].whole_rows(rows))
        return True

    def _wanted_rows(self, session: Welcome) -> int:
        """Of the next batch, as large as the service takes one."""
        most = max(1, session.max_batch_bytes // self.schema.row_bytes)
        return min(self._unsent[0].rows, most)

    def _take(self, rows: int) -> None:
        """The first `rows` rows that were never sent become the next batch."""
        batch = self._unsent[0]
        if rows < batch.rows:
            batch = batch.split(rows)
        else:
            self._unsent.popleft()
        batch.seq = self._marks.add(batch.first_row + batch.rows)
        self._position_bytes += batch.payload_bytes
        batch.position_bytes = self._position_bytes
        self._in_flight.append(batch)

    def credit_rows(self) -> int:
        """Rows for which there is credit beyond all that was sent."""
        if self.sent_seq + 1 - self._base_seq >= self.credit_batches:
            return 0
        return max(0, self.credit_bytes - self._position_bytes) // self.schema.row_bytes

    def needed_bytes(self) -> int:
        """Payload bytes that wait for credit; 0 when nothing does."""
        if self._transmitted < len(self._in_flight) or not self._unsent:
            return 0
        session = self._session
        if session is not None and self.credit_rows() >= self._wanted_rows(session):
            return 0
        return self._unsent[0].payload_bytes

    # -- what the service says ---------------------------------------------------------------

    @property
    def sent_seq(self) -> int:
        """The newest sequence number given out; 0 for none."""
        return self._marks.last_seq

    @property
    def first_available(self) -> tuple[int, int]:
        """Sequence number and first row of the oldest batch that is still here (or will be)."""
        for batches in (self._in_flight, self._unsent):
            if batches:
                row = batches[0].first_row
                return self._marks.seq_of(row), row
        return self._marks.last_seq + 1, self.next_row

    @property
    def in_flight_rows(self) -> int:
        """Rows of batches that were sent whole to the present service and not accepted yet."""
        return sum(
            batch.rows
            for batch in self._in_flight
            if batch.sent_times and batch.seq > self.accepted
        )

    @property
    def last_row(self) -> int:
        """The row behind the newest one that was not dropped."""
        if self._unsent:
            return self._unsent[-1].first_row + self._unsent[-1].rows
        return self._marks.last_row

    def row_of(self, seq: int) -> int:
        """The row behind batch `seq`, drops included; 0 when that is not known any more."""
        if seq >= self.sent_seq:
            return self._unsent[0].first_row if self._unsent else self.next_row
        return self._marks.row_of(seq) or 0

    def use_service(self, name: str) -> None:
        """The next session is with this service, which numbers batches by itself."""
        self.suspend()
        marks = self._marks_of.setdefault(name, RowMarks())
        if marks is self._marks:
            return
        self._marks = marks
        self.accepted = self.durable = self.trained = self.trained_row = 0
        self._return_in_flight()

    def open(self, welcome: Welcome) -> None:
        """Begin a session: what the service has is let go of, all else is sent anew.

        Batches from `next_seq` on were accepted by nobody, so they become unsent again and may
        get other sequence numbers and other cuts. Where batches are kept until they are durable,
        those before it stay, as sent.
        """
        self._session = welcome
        keeps = welcome.ack_level == AckLevel.DURABLE
        self._reopen(welcome.next_seq, keeps=keeps, next_row=welcome.next_row)
        self.accepted = welcome.next_seq - 1
        self.durable = min(self.durable, self.accepted)
        self.trained = min(self.trained, self.accepted)
        self._base_seq = welcome.next_seq
        self._position_bytes = 0
        self.credit_bytes = welcome.credit_bytes
        self.credit_batches = welcome.credit_batches
        self.holding = self.draining = False
        self._first_ack = True

    def _reopen(self, next_seq: int, *, keeps: bool, next_row: int | None = None) -> None:
        """Part what the service has taken from what it is to get.

        Rows decide, where the service tells them: a batch that it could not accept may be in its
        log all the same, and a later life of it takes that up, while the number went to another
        cut here.
        """
        taken_row = self._marks.row_of(next_seq - 1) if next_row is None else next_row
        self._return_in_flight()
        while taken_row is not None and self._unsent and self._unsent[0].first_row < taken_row:
            batch = self._unsent[0]
            if batch.first_row + batch.rows > taken_row:
                batch = batch.split(taken_row - batch.first_row)
            else:
                self._unsent.popleft()
            batch.seq = min(self._marks.seq_of(batch.first_row + batch.rows - 1), next_seq - 1)
            self._in_flight.append(batch)
        for batch in self._unsent:
            batch.refused, batch.refused_rows = "", 0
        self._transmitted = len(self._in_flight)
        self._marks.renumber(next_seq, next_row)
        if not keeps:
            self._release(next_seq - 1)

    def suspend(self) -> None:
        """End the session; pushes go on."""
        self._session = None

    def _return_in_flight(self) -> None:
        self._unsent.extendleft(reversed(self._in_flight))
        self._in_flight.clear()
        self._transmitted = self._fragment = 0

    def acknowledge(self, ack: Ack) -> int:
        """Take over cumulative acks and credit; returns how many batches were let go of."""
        self.holding = False
        self.accepted = max(self.accepted, min(ack.accepted, self.sent_seq))
        durable, trained = min(ack.durable, self.accepted), min(ack.trained, self.accepted)
        if not self._first_ack:  # the first one of a session may tell of a service gone back
            durable, trained = max(self.durable, durable), max(self.trained, trained)
        self._first_ack = False
        self.durable, self.trained = durable, trained
        row = self._marks.row_of(trained)
        self.trained_row = self.trained_row if row is None else row
        self.credit_bytes = max(self.credit_bytes, ack.credit_bytes)
        self.credit_batches = max(self.credit_batches, ack.credit_batches)
        session = self._session
        keeps = session is not None and session.ack_level == AckLevel.DURABLE
        return self._release(self.durable if keeps else self.accepted)

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
        self._marks.forget(upto_seq, self.trained)
        return released

    def _settle(self, batch: Batch) -> None:
        taken_rows = batch.rows - batch.refused_rows
        if batch.refused:
            self.books.quarantined_rows += batch.refused_rows
            self.books.quarantined_batches += 1
        if taken_rows:
            self.books.acknowledged_rows += taken_rows
            self.books.acknowledged_batches += 1
            self.books.acknowledged_bytes += taken_rows * self.schema.row_bytes

    def refuse(self, nack: Nack) -> None:
        """Go back to a batch, or note that the service settled it without taking it."""
        index = self._index_of(nack.seq)
        if index == len(self._in_flight) or self._in_flight[index].seq != nack.seq:
            return
        if not nack.resend:
            rows = self._in_flight[index].rows
            self._quarantine(index, nack.code, rows if nack.rows is None else min(nack.rows, rows))
            return
        self._go_back(index)
        self.holding = nack.code == NackCode.FULL

    def _quarantine(self, index: int, code: str, rows: int) -> None:
        """The service has settled this batch in flight without taking so many rows of it."""
        batch = self._in_flight[index]
        batch.refused, batch.refused_rows = code, rows

    def _index_of(self, seq: int) -> int:
        """Place in flight of the first batch with this number or a later one."""
        return bisect_left(self._in_flight, seq, key=lambda batch: batch.seq)

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
            self._go_back(self._index_of(self.accepted + 1))

    @property
    def transmitted_seq(self) -> int:
        """The newest batch all of whose fragments were handed out, going back included."""
        if not self._in_flight:
            return self.sent_seq
        if not self._transmitted:
            return self._in_flight[0].seq - 1
        return self._in_flight[self._transmitted - 1].seq
