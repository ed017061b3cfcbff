"""Playback: records of the stream log enter the buffer, in their order, as it has room.

After a restart these are the records behind the checkpoint; `insitu replay` plays a whole log.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch

from insitu.batch import Batch
from insitu.stream.blocks import typed_views
from insitu.stream.buffer import StreamBuffer
from insitu.stream.inlet import ProbeSink
from insitu.stream.log.record import Kind, Record
from insitu.stream.stamp import Place, Stamp, provenance


class Records(Protocol):
    """Gives records in order; None when there is none (yet)."""

    def next(self) -> Record | None: ...


#: kinds of records that only mark a place in the stream
MARKS = frozenset({Kind.LEAVE, Kind.END, Kind.REOPEN})


def enter_mark(buffer: StreamBuffer, kind: Kind, producer_id: str, place: Place) -> bool:
    """Let a mark in; False when the buffer is shut.

    Args:
        producer_id: who leaves; means nothing for the others.
    """
    if kind == Kind.LEAVE:
        return buffer.leave(producer_id, place=place)
    return (buffer.end if kind == Kind.END else buffer.reopen)(place=place)


class Playback:
    """Feeds a buffer from records.

    Args:
        records: where they come from; the first is the one behind `buffer.place`.
        probes: where held-out rows go.
        on_entered: told of each record that has entered.
    """

    def __init__(
        self,
        records: Records,
        buffer: StreamBuffer,
        probes: ProbeSink,
        on_entered: Callable[[Record], None] = lambda record: None,
    ) -> None:
        self._records = records
        self._buffer = buffer
        self._probes = probes
        self._on_entered = on_entered
        self._waiting: Record | None = None

    def feed(self, most_bytes: int) -> bool:
        """Let records in until about so many bytes have entered.

        Returns:
            True when there is more, and room for it; False at the tail, or without room.

        Raises:
            ProducerError: a batch can never get room, or its task is one too many, which happens
                when the configuration allows less than it did when the log was written.
        """
        fed_bytes = 0
        while fed_bytes < most_bytes:
            record = self._waiting or self._records.next()
            if record is None:
                return False
            self._waiting = record
            if not self._enter(record):
                return False
            self._waiting = None
            self._on_entered(record)
            fed_bytes += len(record.payload)
        return True

    def _enter(self, record: Record) -> bool:
        """False when there is no room, or the buffer is shut."""
        buffer, place = self._buffer, Place(record.number, record.chain)
        stamp = record.stamp
        if record.kind in MARKS:
            return enter_mark(buffer, record.kind, stamp.producer_id if stamp else "", place)
        assert stamp is not None, "every other record is stamped"
        if record.kind == Kind.SKIP:
            return buffer.skip(stamp, record.rows, place=place)
        if record.kind == Kind.REFUSE:
            return buffer.refuse(stamp, record.rows, place=place)
        if record.kind == Kind.PROBE:
            buffer.task_index(stamp.task)
            probe = self._batch(stamp, record)
            return self._probes(stamp, probe) and buffer.skip(stamp, record.rows, place=place)
        return self._commit(stamp, record, place)

    def _commit(self, stamp: Stamp, record: Record, place: Place) -> bool:
        reservation = self._buffer.reserve(record.rows)
        if reservation is None:
            return False
        reservation.write(0, record.payload)
        if not self._buffer.commit(reservation, stamp, keep=record.keep, place=place):
            self._buffer.abandon(reservation)
            return False
        return True

    def _batch(self, stamp: Stamp, record: Record) -> Batch:
        """The rows of a record as a batch of its own memory."""
        row_bytes = self._buffer.schema.row_bytes
        rows = np.frombuffer(record.payload, np.uint8).reshape(record.rows, row_bytes)
        columns, keep = provenance(stamp, record.rows), record.keep
        if keep is not None:
            rows, columns = rows[keep], columns[keep]
        block = torch.empty((len(rows), row_bytes), dtype=torch.uint8)
        block.numpy()[:] = rows
        fields = typed_views(self._buffer.schema, block)
        return Batch(fields, torch.from_numpy(columns), len(columns))
