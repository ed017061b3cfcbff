"""What is promised to whom at one moment, and who is next: fair shares of a ring that is full.

When there is less room than is asked for, it goes to the producers that were given least of late,
counted in bytes of credit (a session that comes begins where the least served one stands). Who is
ahead of a producer that waits, by more than a fair window, gets nothing new until that one was
served; while the ring is nearly full, neither does who asks and is so far ahead of anybody that
has waited of late, as the others are about to ask.

A promise counts as *busy* while its holder uses it. One that has sent nothing from one PING to
the next, or was not heard for a while, is idle: its room may be promised to those who wait.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from insitu_service.ingest.credit import window_bytes
from insitu_service.ingest.session import Session, Sessions

#: after this silence a producer does not use its credit now; a few heartbeats
_SILENT_SECONDS = 2.5


@dataclass(slots=True)
class Stock:
    """One pass over the sessions; `give` keeps it true while credit is given.

    Args:
        room_bytes: of the ring that are free, or that may be evicted.
        now: when somebody was heard last.
        promised_bytes: credit of all sessions that is not used.
        busy_bytes: of those that use theirs.
        front_bytes: share of the least served of those who wait and could be served.
        waiting: how many those are.
        least_bytes: share of the least served of those who have waited since their last PING.
    """

    room_bytes: int
    ring_bytes: int
    row_bytes: int
    sessions: int
    now: float
    promised_bytes: int = 0
    busy_bytes: int = 0
    front_bytes: float = math.inf
    waiting: int = 0
    least_bytes: float = math.inf

    @classmethod
    def take(
        cls, sessions: Sessions, waiting_elsewhere: Collection[Session], *, room_bytes: int,
        ring_bytes: int, row_bytes: int,
    ) -> Stock:  # fmt: skip
        """Look at every session.

        Args:
            waiting_elsewhere: who waits for something else than room, such as its quota.
        """
        every = list(sessions)
        now = max((session.heard_at for session in every), default=0.0)
        stock = cls(room_bytes, ring_bytes, row_bytes, max(1, len(every)), now)
        for session in every:
            outstanding = session.outstanding_bytes
            stock.promised_bytes += outstanding
            if not stock._is_busy(session):
                continue
            stock.busy_bytes += outstanding
            if session in waiting_elsewhere:
                continue
            if session.has_waited:
                stock.least_bytes = min(stock.least_bytes, session.share_bytes(now))
            if stock.waits(session):
                stock.front_bytes = min(stock.front_bytes, session.share_bytes(now))
                stock.waiting += 1
        return stock

    @property
    def fair_bytes(self) -> int:
        return max(self.row_bytes, self.ring_bytes // (2 * self.sessions))

    def window(self, session: Session, *, in_turn: bool = False) -> int:
        """Bytes that this session may have under way; at least what it has been promised.

        Args:
            in_turn: all who wait are asked now, the least served first.
        """
        outstanding = session.outstanding_bytes
        if self._is_ahead(session, in_turn=in_turn):
            return outstanding
        busy = self.busy_bytes - (outstanding if self._is_busy(session) else 0)
        needed = max(session.needed_bytes, session.held_bytes)
        window = window_bytes(
            needed_bytes=needed,
            promised_to_others_bytes=self.promised_bytes - outstanding,
            busy_to_others_bytes=busy,
            sessions=self.sessions,
            room_bytes=self.room_bytes,
            ring_bytes=self.ring_bytes,
            row_bytes=self.row_bytes,
        )
        if self.waiting > 1:  # not the whole room to the first of many
            window = min(window, max(needed, self.room_bytes // self.waiting, self.row_bytes))
        return max(window, outstanding)

    def _is_ahead(self, session: Session, *, in_turn: bool) -> bool:
        """Others are to be served before it."""
        least = self.front_bytes
        if not in_turn and self.room_bytes < self.ring_bytes // 4:
            least = min(least, self.least_bytes)
        return session.share_bytes(self.now) > least + self.fair_bytes

    def give(self, session: Session, bytes_: int) -> None:
        """So much more credit was given."""
        session.serve(bytes_, self.now)
        self.promised_bytes += bytes_
        self.busy_bytes += bytes_ if self._is_busy(session) else 0

    def _is_busy(self, session: Session) -> bool:
        return not session.idle and self.now - session.heard_at < _SILENT_SECONDS

    def waits(self, session: Session) -> bool:
        """It needs more than it has, within its fair share, and there may be room for it."""
        needed = max(session.needed_bytes, session.held_bytes)
        if not needed or session.held_bytes > self.room_bytes:
            return False
        return min(needed, self.fair_bytes) > session.outstanding_bytes
