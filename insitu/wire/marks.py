"""Which row each batch ends at: how sequence numbers of one service become row numbers."""

from __future__ import annotations

from bisect import bisect_right

#: end rows of batches that are let go of and not trained yet; older ones are forgotten
_MOST_KEPT = 1 << 14
#: forgetting moves the list, so it is done for many batches at a time
_SWEEP = 1 << 10


class RowMarks:
    """The end rows of consecutive batches, the newest last.

    Row numbers are the producer's own and mean the same everywhere, sequence numbers are agreed
    with one service; so what one service took is told to another, or to a later life of the
    producer, in rows.

    Example:
        >>> marks = RowMarks()
        >>> marks.add(10)
        1
        >>> marks.add(25)
        2
        >>> marks.row_of(1), marks.row_of(2), marks.seq_of(10)
        (10, 25, 2)
    """

    def __init__(self, base_seq: int = 0, base_row: int = 0, rows: list[int] | None = None) -> None:
        self._base_seq = base_seq
        self._base_row = base_row
        self._rows = [] if rows is None else list(rows)

    @property
    def last_seq(self) -> int:
        """The newest batch; 0 for none."""
        return self._base_seq + len(self._rows)

    @property
    def last_row(self) -> int:
        """The row behind the newest batch."""
        return self._rows[-1] if self._rows else self._base_row

    def add(self, end_row: int) -> int:
        """The next batch ends before this row; gives its number."""
        self._rows.append(end_row)
        return self.last_seq

    def row_of(self, seq: int) -> int | None:
        """The row behind batch `seq`, or behind the newest before it; None if it is forgotten."""
        index = min(seq, self.last_seq) - self._base_seq
        if index < 0:
            return None
        return self._rows[index - 1] if index else self._base_row

    def seq_of(self, row: int) -> int:
        """The batch that holds this row; the next new one when none does."""
        return self._base_seq + bisect_right(self._rows, row) + 1

    def renumber(self, next_seq: int, next_row: int | None = None) -> None:
        """The batches from `next_seq` on were taken by nobody: their numbers are given anew.

        Args:
            next_row: where the service says that they begin; None to go by what is marked.
        """
        if next_seq > self.last_seq + 1:
            self._base_seq, self._base_row, self._rows = next_seq - 1, self.last_row, []
        elif next_seq > self._base_seq:
            del self._rows[next_seq - 1 - self._base_seq :]
        else:
            self._base_seq, self._rows = next_seq - 1, []
        if next_row is None:
            return
        if not self._rows:
            self._base_row = next_row
            return
        self._rows = [min(row, next_row) for row in self._rows]
        self._rows[-1] = next_row

    def forget(self, released_seq: int, trained_seq: int) -> None:
        """Nobody asks any more for batches that are let go of and trained."""
        count = min(released_seq, trained_seq) - self._base_seq
        count = max(count, min(released_seq, self.last_seq - _MOST_KEPT) - self._base_seq)
        if count >= _SWEEP:
            self._base_seq, self._base_row = self._base_seq + count, self._rows[count - 1]
            del self._rows[:count]

    def state(self) -> list[object]:
        """What the constructor takes."""
        return [self._base_seq, self._base_row, list(self._rows)]
