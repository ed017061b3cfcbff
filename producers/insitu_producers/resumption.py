"""Rows that a simulation makes again after its restart, and that are at the service already."""

from __future__ import annotations

from insitu.wire.rows import Array


class Resumption:
    """Leaves the first rows out of what is pushed.

    A push may reach the service in parts, and its cursor is told with the last one. When the
    simulation dies between them, its next run begins at the cursor before and makes these rows
    once more.

    Args:
        rows: how many of the rows to come are there already.

    Example:
        >>> import numpy as np
        >>> resumption = Resumption(3)
        >>> [len(resumption.leave_out([np.zeros(2)], 2, None)[0][0]) for _ in range(3)]
        [0, 1, 2]
        >>> resumption.left_out_rows
        3
    """

    def __init__(self, rows: int) -> None:
        self.left_out_rows = 0
        self._rows = rows

    @property
    def is_over(self) -> bool:
        """Everything from now on is new."""
        return self._rows == 0

    def leave_out(
        self, columns: list[Array], rows: int, sample_ids: bytes | None
    ) -> tuple[list[Array], int, bytes | None]:
        """What is new of a push: its columns, how many rows, and their ids."""
        known = min(self._rows, rows)
        self._rows -= known
        self.left_out_rows += known
        ids = None if sample_ids is None else sample_ids[8 * known :]
        return [column[known:] for column in columns], rows - known, ids
