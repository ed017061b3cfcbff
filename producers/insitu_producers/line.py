"""What a producer consists of from when its schema is known: window, session and connection."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from insitu.errors import InsituError, InternalError, ProducerError
from insitu.wire.sender import SendWindow
from insitu.wire.session import ProducerSession, SessionState
from insitu_producers.connection import BYE_SECONDS, Connection, logger

#: how far a row has got at the service, and `flush` waits
LEVELS = ("accepted", "durable", "trained")


class WaitTimeoutError(ProducerError, TimeoutError):
    """`flush` or `wait_connected` took longer than allowed."""


@dataclass(frozen=True, slots=True)
class Line:
    """The three parts, and the questions that are asked of all of them.

    Args:
        changed: the lock of window and session, to wait with.
        lock: the same, to be taken quickly.
    """

    window: SendWindow
    session: ProducerSession
    connection: Connection
    changed: threading.Condition
    lock: threading.Lock

    def check(self) -> None:
        """Raise when nothing can be pushed any more."""
        failure = self.connection.failure
        if failure is not None:
            if isinstance(failure, InsituError):
                raise failure
            raise InternalError(f"the producer's I/O thread failed: {failure!r}")
        if self.session.over:
            raise ProducerError(
                self.session.last_error, consequence="nothing more is sent by this producer"
            )

    def is_open(self) -> bool:
        return self.session.state is SessionState.OPEN

    def is_clear(self) -> bool:
        return self.window.books.pending_rows == 0

    def reached(self, level: str, row: int) -> bool:
        """Whether all rows before this one that were kept have got so far at the service."""
        window = self.window
        seq = {"accepted": window.accepted, "durable": window.durable, "trained": window.trained}
        return row == 0 or window.row_of(seq[level]) >= row

    def settled_rows(self) -> int:
        books = self.window.books
        return books.pushed_rows - books.pending_rows

    def standing(self) -> str:
        """How far the rows have got, for the text of an error."""
        window, welcome = self.window, self.session.welcome
        level = "no service" if welcome is None else f"the service promises {welcome.ack_level!r}"
        return (
            f"{window.books.pending_rows} rows are pending; of {window.sent_seq} batches "
            f"{window.accepted} are accepted, {window.durable} durable, {window.trained} trained "
            f"({level})"
        )

    def reason(self) -> str:
        """What the service, or the connection to it, said last against us."""
        said = self.session.last_error
        return f" ({said})" if said else ""

    def end(self, deadline: float) -> None:
        """The end of the stream; what was not acknowledged is dropped."""
        with self.changed:  # before BYE, so that it can tell
            while self.window.drop_oldest_unsent("closed"):
                pass
        self.connection.close(min(BYE_SECONDS, max(0.1, deadline - time.monotonic())))
        with self.changed:
            self.window.drop_all("closed")
            left = self.window.books.dropped_rows.get("closed", 0)
        if left:
            logger.warning(
                "closed with %d rows that the service did not acknowledge: %s", left, self._why()
            )

    def leave(self) -> None:
        """Go without a word; what was not acknowledged waits in the window's files."""
        with self.changed:
            self.session.close()
        self.connection.close(0)
        rows = self.window.books.pending_rows
        logger.warning("closed with %d rows that wait in the window's files: %s", rows, self._why())

    def _why(self) -> str:
        return self.session.last_error or f"no answer from {self.connection.endpoint}"
