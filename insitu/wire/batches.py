"""What a send window is made of: labels, batches of rows, fragments on their way, and the books."""

from __future__ import annotations

from dataclasses import dataclass, field

from insitu.wire.checksum import checksum
from insitu.wire.messages import Data
from insitu.wire.slabs import Slab
from insitu.wire.values import Cursor


@dataclass(slots=True)
class Books:
    """What became of the rows: pushed = acknowledged + quarantined + dropped + pending, always."""

    pushed_rows: int = 0
    pushed_batches: int = 0
    pushed_bytes: int = 0
    acknowledged_rows: int = 0
    acknowledged_batches: int = 0
    acknowledged_bytes: int = 0
    quarantined_rows: int = 0
    quarantined_batches: int = 0
    pending_rows: int = 0
    pending_batches: int = 0
    sent_batches: int = 0
    sent_bytes: int = 0
    resent_batches: int = 0
    dropped_rows: dict[str, int] = field(default_factory=dict)

    def drop(self, reason: str, rows: int) -> None:
        self.dropped_rows[reason] = self.dropped_rows.get(reason, 0) + rows

    @property
    def dropped_rows_in_all(self) -> int:
        return sum(self.dropped_rows.values())


#: cursors that a batch keeps; a cut between older pushes then has none, which is allowed
_MOST_CURSORS = 8


@dataclass(frozen=True, slots=True)
class Label:
    """What a push says of all its rows; pushes with equal labels merge."""

    task: str = ""
    flags: int = 0
    identified: bool = False


@dataclass(slots=True, eq=False)
class Batch:
    """Consecutive rows of one slab. `position_*` count from the session's first batch.

    `digest` is (kind, value) of the checksum of the whole payload, where it was taken while the
    bytes were still in the cache of the core that wrote them; None when it is not known.
    """

    slab: Slab
    start: int
    rows: int
    first_row: int
    label: Label
    produced_at_ns: int
    cursors: list[tuple[int, Cursor]]
    sample_ids: bytearray
    digest: tuple[str, int] | None = None
    seq: int = 0
    position_bytes: int = 0
    sent_times: int = 0
    refused: str = ""
    refused_rows: int = 0

    @property
    def payload_bytes(self) -> int:
        return self.rows * self.slab.row_bytes

    def append(self, other: Batch) -> None:
        self.cursors += [(end + self.rows, cursor) for end, cursor in other.cursors]
        del self.cursors[:-_MOST_CURSORS]
        self.sample_ids += other.sample_ids
        self.rows += other.rows
        self.digest = None

    def add_cursor(self, cursor: Cursor) -> None:
        """The cursor of the newest row."""
        self.cursors.append((self.rows, cursor))
        del self.cursors[:-_MOST_CURSORS]

    def whole_rows(self, most_rows: int) -> int:
        """How many of the first `most_rows` rows to send at once.

        Those that the newest cursor among them is complete with, so that it is told exactly where
        it stands; all of them when none has a cursor.
        """
        return next((end for end, _ in reversed(self.cursors) if end <= most_rows), most_rows)

    @property
    def cursor(self) -> Cursor:
        """The producer's place that is complete with the last row; None when none is."""
        end, cursor = self.cursors[-1] if self.cursors else (0, None)
        return cursor if end == self.rows else None

    def split(self, rows: int) -> Batch:
        """Cut off the first `rows` rows as a batch; this one keeps the others."""
        head = Batch(
            self.slab, self.start, rows, self.first_row, self.label, self.produced_at_ns,
            [(end, cursor) for end, cursor in self.cursors if end <= rows],
            self.sample_ids[: 8 * rows],
        )  # fmt: skip
        self.slab.users += 1
        self.digest = None
        self.start += rows
        self.first_row += rows
        self.rows -= rows
        self.cursors = [(end - rows, cursor) for end, cursor in self.cursors if end > rows]
        del self.sample_ids[: 8 * rows]
        return head


@dataclass(frozen=True, slots=True)
class Span:
    """Rows `[start, start + rows)` of a slab, reserved for the caller to write."""

    slab: Slab
    start: int
    rows: int


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One fragment that is due; `data` makes the message, outside of any lock."""

    batch: Batch
    session: int
    checksum_kind: str
    fragment: int
    fragments: int
    fragment_bytes: int

    def data(self) -> Data:
        batch = self.batch
        payload = batch.slab.bytes_of(batch.start, batch.rows)
        offset = self.fragment * self.fragment_bytes
        size = len(payload)
        if self.fragments > 1:
            payload = payload[offset : offset + self.fragment_bytes]
        ids = bytes(batch.sample_ids) if batch.label.identified and not self.fragment else None
        return Data(
            self.session, batch.seq, self.fragment, self.fragments, batch.rows, batch.first_row,
            size, offset, self._checksum(payload), batch.produced_at_ns,
            batch.cursor, batch.label.task, ids,
            batch.label.flags, None, payload,
        )  # fmt: skip

    def _checksum(self, payload: memoryview) -> int:
        known = self.batch.digest
        if self.fragments == 1 and known is not None and known[0] == self.checksum_kind:
            return known[1]
        return checksum(self.checksum_kind, payload)
