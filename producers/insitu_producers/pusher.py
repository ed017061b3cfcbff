"""Pushes into the window of a producer: room is found or waited for, rows are copied, who sends is
woken.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from insitu.errors import InsituError
from insitu.wire.batches import Label, Span
from insitu.wire.rows import Array
from insitu.wire.values import Cursor
from insitu.wire.when_full import WhenFull
from insitu_producers.connection import logger
from insitu_producers.line import Line
from insitu_producers.writing import DIGEST_BYTES, digests_of, write

#: up to this size a push is copied under the lock, which is cheaper than to take it twice
_SMALL_BYTES = 64 << 10


class Pusher:
    """One push at a time.

    Args:
        line: whose window is pushed into.
        policy: what becomes of a push that finds no room.
        block_timeout_seconds: how long it waits under the policy `block`; None for ever.
        check: raises when nothing can be pushed any more.
    """

    def __init__(
        self,
        line: Line,
        policy: WhenFull,
        block_timeout_seconds: float | None,
        check: Callable[[], None],
    ) -> None:
        self._line = line
        self._window = line.window
        self._dialogue = line.connection.dialogue
        self._policy = policy
        self._block_timeout_seconds = block_timeout_seconds
        self._check = check
        self._small_rows = 0 if policy.chooses else _SMALL_BYTES // line.window.schema.row_bytes
        #: of a push that goes in one part
        self._most_rows = max(1, line.window.pool.capacity_rows // 2)
        self._label = Label()
        self._full_since: float | None = None
        self._told_dropping = False

    def push(
        self,
        columns: list[Array],
        rows: int,
        task: str,
        flags: int,
        cursor: Cursor,
        sample_ids: bytes | None,
    ) -> bool:
        """Take the rows of these columns; False when some were dropped.

        A push of more than half of the window goes in parts; each finds its own room.
        """
        label, ids = self._labelled(task, flags, sample_ids is not None), sample_ids or b""
        if rows <= self._small_rows and self._push_small(columns, rows, label, cursor, ids):
            return True
        most = self._most_rows
        if rows <= most:
            return self._push_part(columns, rows, label, cursor, ids)
        taken = True
        for start in range(0, rows, most):
            stop = min(start + most, rows)
            part = [column[start:stop] for column in columns]
            newest = cursor if stop == rows else None
            taken &= self._push_part(part, stop - start, label, newest, ids[8 * start : 8 * stop])
        return taken

    def _labelled(self, task: str, flags: int, identified: bool) -> Label:
        """The label of the push before, as long as it says the same."""
        label = self._label
        if label.task != task or label.flags != flags or label.identified != identified:
            label = self._label = Label(task, flags, identified)
        return label

    def _push_small(
        self, columns: list[Array], rows: int, label: Label, cursor: Cursor, ids: bytes
    ) -> bool:
        """Append to the batch that waits to be sent, if there is one and it has room."""
        window, dialogue = self._window, self._dialogue
        with self._line.lock:
            batch = window.growing(rows, label)
            if batch is None:
                return False
            slab = batch.slab
            start = slab.used_rows
            end = start + rows
            for field, column in zip(slab.fields, columns, strict=True):
                field[start:end] = column
            window.grow(batch, rows, cursor, ids)
            self._full_since = None
            wake, dialogue.wants_waking = dialogue.wants_waking, False
        if wake:
            self._line.connection.wake()
        return True

    def _push_part(
        self, columns: list[Array], rows: int, label: Label, cursor: Cursor, ids: bytes
    ) -> bool:
        window, dialogue, changed = self._window, self._dialogue, self._line.changed
        produced_at_ns = time.time_ns()
        with changed:
            spans = self._policy.reserve(window, rows)
            if spans is None and self._policy.waits:
                spans = self._wait_for_room(rows)
            if spans is None:
                window.drop_push(self._policy.reason, rows)
                self._tell_dropping()
                return False
            self._full_since = None
        try:
            write(spans, columns)
            large = rows * window.schema.row_bytes >= DIGEST_BYTES
            digests = digests_of(spans, window.checksum_kind) if large else ()
        except BaseException:
            with changed:
                window.abandon(spans)
            raise
        with changed:
            try:
                window.commit(
                    spans,
                    label,
                    produced_at_ns=produced_at_ns,
                    cursor=cursor,
                    sample_ids=ids,
                    digests=digests,
                )
            except InsituError:  # such as a full disk under a window that is kept in files
                window.abandon(spans)
                raise
            wake, dialogue.wants_waking = dialogue.wants_waking, False
        if wake:
            self._line.connection.wake()
        return True

    def _wait_for_room(self, rows: int) -> list[Span] | None:
        """Wait under the policy `block`; None when the time is up."""
        line = self._line
        settled = line.settled_rows()
        while (spans := self._policy.reserve(line.window, rows)) is None:
            self._check()
            now = time.monotonic()
            if line.settled_rows() != settled or self._full_since is None:
                settled, self._full_since = line.settled_rows(), now
            left = None
            if self._block_timeout_seconds is not None:
                left = self._full_since + self._block_timeout_seconds - now
                if left <= 0:
                    return None
            line.changed.wait(left)
            line.session.blocked_seconds += time.monotonic() - now
        return spans

    def _tell_dropping(self) -> None:
        """One log line when dropping begins."""
        if not self._told_dropping:
            self._told_dropping = True
            logger.warning(
                "the window of %s is full; pushes are dropped (%s), see stats()",
                self._line.session.identity.producer_id,
                self._policy.reason,
            )
