"""What a producer did so far, as one immutable object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from insitu.wire.session import ProducerSession
from insitu.wire.values import Cursor


@dataclass(frozen=True, slots=True)
class ProducerStats:
    """The producer's books: pushed = acknowledged + quarantined + dropped + pending, in rows.

    Args:
        state: `lost`, `greeting`, `open`, `refused`, `fenced` or `closed`.
        pushed_rows, pushed_batches, pushed_bytes: what `push` was given (batches are pushes).
        acknowledged_rows, ...: what the service has taken; batches are batches on the wire,
            which merged pushes share.
        quarantined_rows, quarantined_batches: what the service refused as bad data, and the
            batches with such rows. The other rows of these are acknowledged; a service before
            release 2 does not tell how many, and all then count as quarantined.
        dropped_rows: by reason: `timeout`, `newest`, `oldest`, `thinned`, `closed`.
        pending_rows: in the window, sent or not.
        sent_batches, sent_bytes, resent_batches: what went out, resent batches included.
        accepted_seq, durable_seq, trained_seq: newest batch that the service has accepted, has on
            its disk, has trained, with all before it. 0 for none; durable needs a log.
        accepted_row, durable_row, trained_row: the row behind that batch.
            All six are of the service that is in use.
        reconnects: sessions after the first.
        failovers: how often another one of several services was turned to.
        uncertain_rows: sent to a service that was then left without its word, and sent to the
            next: the one that was left may have taken them, too.
        blocked_seconds: how long pushes waited for room, in all.
        credit_rows: rows that may be sent beyond all that was.
        window_used_ratio: 0 to 1.
        garbage_messages: answers that were no messages of this protocol.
        recovered_rows: what a former process had left in the window's files.
        left_out_rows: given to `push` by a producer that resumes, and at the service already; not
            among the pushed rows.
        last_cursor: the newest cursor that the service had when the producer first connected, or
            that is in a window that was recovered.
        last_error: the newest complaint of the service, or of the connection; empty if none.
    """

    state: str = "lost"
    pushed_rows: int = 0
    pushed_batches: int = 0
    pushed_bytes: int = 0
    acknowledged_rows: int = 0
    acknowledged_batches: int = 0
    acknowledged_bytes: int = 0
    quarantined_rows: int = 0
    quarantined_batches: int = 0
    dropped_rows: Mapping[str, int] = field(default_factory=dict)
    pending_rows: int = 0
    sent_batches: int = 0
    sent_bytes: int = 0
    resent_batches: int = 0
    accepted_seq: int = 0
    durable_seq: int = 0
    trained_seq: int = 0
    accepted_row: int = 0
    durable_row: int = 0
    trained_row: int = 0
    reconnects: int = 0
    failovers: int = 0
    uncertain_rows: int = 0
    blocked_seconds: float = 0.0
    credit_rows: int = 0
    window_used_ratio: float = 0.0
    garbage_messages: int = 0
    recovered_rows: int = 0
    left_out_rows: int = 0
    last_cursor: Cursor = None
    last_error: str = ""

    @property
    def dropped_rows_in_all(self) -> int:
        return sum(self.dropped_rows.values())


def read_stats(
    session: ProducerSession,
    *,
    garbage_messages: int,
    recovered_rows: int,
    left_out_rows: int,
    last_cursor: Cursor,
) -> ProducerStats:
    """A consistent reading; the caller holds the lock of the session and its window."""
    window = session.window
    books = window.books
    return ProducerStats(
        state=session.state.value,
        pushed_rows=books.pushed_rows,
        pushed_batches=books.pushed_batches,
        pushed_bytes=books.pushed_bytes,
        acknowledged_rows=books.acknowledged_rows,
        acknowledged_batches=books.acknowledged_batches,
        acknowledged_bytes=books.acknowledged_bytes,
        quarantined_rows=books.quarantined_rows,
        quarantined_batches=books.quarantined_batches,
        dropped_rows=MappingProxyType(dict(books.dropped_rows)),
        pending_rows=books.pending_rows,
        sent_batches=books.sent_batches,
        sent_bytes=books.sent_bytes,
        resent_batches=books.resent_batches,
        accepted_seq=window.accepted,
        durable_seq=window.durable,
        trained_seq=window.trained,
        accepted_row=window.row_of(window.accepted) if window.accepted else 0,
        durable_row=window.row_of(window.durable) if window.durable else 0,
        trained_row=window.trained_row,
        reconnects=max(0, session.sessions - 1),
        failovers=session.failover.switches,
        uncertain_rows=session.uncertain_rows,
        blocked_seconds=session.blocked_seconds,
        credit_rows=window.credit_rows(),
        window_used_ratio=window.pool.used_ratio,
        garbage_messages=garbage_messages,
        recovered_rows=recovered_rows,
        left_out_rows=left_out_rows,
        last_cursor=last_cursor,
        last_error=session.last_error,
    )
