"""The books on a log: who sent what, whether it is without gaps, and which rows were accepted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from insitu.stream.audit import added, row_sum
from insitu.stream.log.record import Kind, Record
from insitu.stream.stamp import Stamp

#: kinds that are one batch each
_BATCHES = frozenset({Kind.BATCH, Kind.PROBE, Kind.REFUSE})
_MOST_FLAWS = 100


@dataclass
class ProducerBooks:
    """What the log holds of one producer.

    Args:
        first, last: (epoch, seq) of its first and last batch.
        lives: how many epochs.
        next_row: running number of its next sample, at the producer.
        rows: for training, that passed the door.
        probe_rows, refused_rows: held out; dropped because the buffer was full.
        quarantined_rows: did not pass the door, or were never whole.
        missing_rows: that the producer numbered and never sent.
    """

    first: tuple[int, int]
    last: tuple[int, int]
    next_row: int
    lives: int = 1
    batches: int = 0
    rows: int = 0
    probe_rows: int = 0
    refused_rows: int = 0
    quarantined_rows: int = 0
    missing_rows: int = 0


class LogBooks:
    """Counts records, one after the other.

    Args:
        upto_record: up to here accepted rows are summed up as well, for the audit.

    Attributes:
        flaws: batches that are missing, doubled or from a fenced life, in words.
        positions: (epoch, seq) of each producer after `upto_record`.
        accepted_rows, accepted_sum: audit of the rows for training up to there.
        chain_upto: the chain after it; None when it is not in the log.
    """

    def __init__(self, upto_record: int = 0) -> None:
        self.upto_record = upto_record
        self.producers: dict[str, ProducerBooks] = {}
        self.kinds: dict[Kind, int] = dict.fromkeys(Kind, 0)
        self.payload_bytes = 0
        self.first_record = self.last_record = 0
        self.first_at_ns = self.last_at_ns = 0
        self.chain = 0
        self.flaws: list[str] = []
        self.positions: dict[str, tuple[int, int]] = {}
        self.accepted_rows = self.accepted_sum = 0
        self.chain_upto: int | None = 0 if upto_record == 0 else None

    @property
    def records(self) -> int:
        """All that were counted."""
        return sum(self.kinds.values())

    def add(self, record: Record) -> None:
        """Take the next record."""
        if self.first_record == 0:
            self.first_record, self.first_at_ns = record.number, record.appended_at_ns
            if self.upto_record == record.number - 1:
                self.chain_upto = record.header.chain_before
        self.last_record, self.last_at_ns = record.number, record.appended_at_ns
        self.chain = record.chain
        self.kinds[record.kind] += 1
        self.payload_bytes += record.header.payload_bytes
        stamp = record.stamp
        if stamp is not None and record.kind != Kind.LEAVE:
            self._follow(record, stamp)
            self._count(record, self.producers[stamp.producer_id])
        if record.number <= self.upto_record:
            self._accept(record)

    def _follow(self, record: Record, stamp: Stamp) -> None:
        """Whether this goes on where the producer was."""
        end = stamp.first_row + record.rows
        books = self.producers.get(stamp.producer_id)
        if books is None:
            place = stamp.epoch, stamp.seq
            self.producers[stamp.producer_id] = ProducerBooks(place, place, end)
            return
        epoch, seq = books.last
        if stamp.epoch < epoch:
            self._flaw(record, stamp, f"is of epoch {stamp.epoch}, which {epoch} has fenced")
        elif stamp.epoch > epoch:
            books.lives += 1
        elif record.kind in _BATCHES:
            if stamp.seq != seq + 1:
                self._flaw(record, stamp, f"follows batch {seq}")
            if stamp.first_row < books.next_row:
                self._flaw(record, stamp, f"brings rows again, from {stamp.first_row} on")
            books.missing_rows += max(0, stamp.first_row - books.next_row)
        elif stamp.seq < seq:
            self._flaw(record, stamp, f"follows batch {seq}")
        books.last = stamp.epoch, stamp.seq
        books.next_row = end if stamp.epoch != epoch else max(books.next_row, end)

    def _flaw(self, record: Record, stamp: Stamp, what: str) -> None:
        if len(self.flaws) < _MOST_FLAWS:
            name = f"batch {stamp.seq} of {stamp.producer_id!r}"
            self.flaws.append(f"record {record.number:,}: {name} {what}")

    def _count(self, record: Record, books: ProducerBooks) -> None:
        kept = record.rows if record.keep is None else int(record.keep.sum())
        if record.kind in _BATCHES:
            books.batches += 1
        if record.kind == Kind.BATCH:
            books.rows += kept
        elif record.kind == Kind.PROBE:
            books.probe_rows += kept
        elif record.kind == Kind.REFUSE:
            books.refused_rows += record.rows
        books.quarantined_rows += record.rows - kept if record.kind != Kind.SKIP else record.rows

    def _accept(self, record: Record) -> None:
        stamp = record.stamp
        if stamp is not None and record.kind != Kind.LEAVE:
            self.positions[stamp.producer_id] = stamp.epoch, stamp.seq
        if record.number == self.upto_record:
            self.chain_upto = record.chain
        if record.kind == Kind.BATCH:
            rows = np.arange(record.rows) if record.keep is None else np.flatnonzero(record.keep)
            more = row_sum(np.full(len(rows), record.number), rows)
            self.accepted_sum = added(self.accepted_sum, more)
            self.accepted_rows += len(rows)
