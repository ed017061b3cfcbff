"""What is known of a batch besides its bytes, and how far each producer has come.

Named tuples: they are made for every record of a log, and cost a fourth of a frozen dataclass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from insitu.batch import Column
from insitu.errors import ProducerError
from insitu.wire.values import Cursor

#: one number for all rows, or one a row
PerRow = int | Sequence[int] | npt.NDArray[np.int64]


class Position(NamedTuple):
    """How far a producer has come: what a resumed service tells it in its WELCOME.

    Args:
        epoch: the life of the producer; a newer one fences the older.
        seq: number of its last batch that was taken, from 1; 0 for none.
        rows: running number of its next sample, drops included.
        cursor: the producer's own place in its run: the newest that it told, whichever batch or
            epoch brought it.
        rows_behind_cursor: running numbers that have passed since the last row that the cursor is
            complete with. A new epoch's count begins at the cursor.
    """

    epoch: int
    seq: int
    rows: int
    cursor: Cursor = None
    rows_behind_cursor: int = 0


class Place(NamedTuple):
    """A record of the stream log: its number, and the value of the log's chain with it.

    A buffer without a log numbers the batches itself, and has no chain.
    """

    record: int
    chain: int = 0


class Stamp(NamedTuple):
    """Where a batch comes from.

    Args:
        first_row: running number of its first sample at the producer.
        produced_at_ns: wall clock of the producer at push, ns since 1970.
        task: name of the task, "" for the default one.
        sample_ids: the producer's own ids by row; None where it gave none, then the row number.
        flags: bits of `insitu.batch.SampleFlag`.
    """

    producer_id: str
    epoch: int
    seq: int
    cursor: Cursor
    first_row: int
    produced_at_ns: PerRow = 0
    task: str = ""
    sample_ids: Sequence[int] | npt.NDArray[np.int64] | None = None
    flags: PerRow = 0

    def position(self, rows: int, before: Position | None = None) -> Position:
        """Where the producer stands after this batch of so many rows, and after `before`."""
        end = self.first_row + rows
        if before is not None and before.epoch == self.epoch and self.seq:
            end = max(end, before.rows)  # a batch that is not taken may begin too early
        if self.cursor is not None:
            return Position(self.epoch, self.seq, end, self.cursor)
        if before is None or before.epoch != self.epoch:
            cursor = None if before is None else before.cursor
            return Position(self.epoch, self.seq, end, cursor, end)
        behind = before.rows_behind_cursor + end - before.rows  # such as the first part of a push
        return Position(self.epoch, self.seq, end, before.cursor, behind)


def provenance(stamp: Stamp, rows: int) -> npt.NDArray[np.int64]:
    """The (rows, len(Column)) provenance that a stamp tells: all but PRODUCER, TASK and VISIT.

    Raises:
        ProducerError: times, ids or flags are not one 64-bit number a row.
    """
    columns = np.zeros((rows, len(Column)), np.int64)
    numbers = np.arange(stamp.first_row, stamp.first_row + rows)
    try:
        columns[:, Column.ROW] = numbers
        columns[:, Column.PRODUCED_AT_NS] = stamp.produced_at_ns
        columns[:, Column.SAMPLE_ID] = numbers if stamp.sample_ids is None else stamp.sample_ids
        columns[:, Column.FLAGS] = stamp.flags
    except (ValueError, OverflowError, TypeError) as error:
        raise ProducerError(
            f"times, sample ids or flags of a batch do not fit: {error}",
            allowed=f"one 64-bit number for each of {rows} rows",
            consequence="the batch is refused",
        ) from None
    return columns
