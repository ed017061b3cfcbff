"""Rows that a simulation makes again after its restart, and that are at the service already."""

from __future__ import annotations

from typing import Self

from insitu.errors import ProducerError
from insitu.wire.rows import Array
from insitu.wire.session import ProducerSession
from insitu.wire.values import Cursor
from insitu_producers.connection import logger


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

    @classmethod
    def of(
        cls, session: ProducerSession, recovered_cursor: Cursor = None, recovered_rows: int = 0
    ) -> Self:
        """For a simulation that begins at its last cursor.

        Args:
            recovered_cursor: the newest one in a window that a former process left; None when
                there is none, and the service's is the last.
            recovered_rows: how many rows that window has behind it.

        Raises:
            ProducerError: the service has not said yet where to go on.
        """
        if recovered_cursor is not None:
            return cls(recovered_rows)
        if session.welcome is None:
            raise ProducerError(
                "push before the service has said where to go on",
                remedy="wait_connected(...) before the first push of a producer that resumes",
            )
        if session.rows_behind_cursor is None:
            logger.warning("the service does not tell which rows behind its last cursor it has")
        return cls(session.rows_behind_cursor or 0)

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
