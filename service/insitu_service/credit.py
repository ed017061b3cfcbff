"""Credit: how many bytes each producer may send, so that the ring is never overrun.

Every session may have a *window* of bytes under way. A session's fair window is the ring's
capacity divided by twice the number of sessions (twice, so that the trainer empties one half
while the other fills). Promises are kept: the sum of the windows granted never exceeds the room,
with one exception. When a session asks for more than is unpromised (it says so in a PING) and
the room itself is free, because others hold promises that they do not use, it is granted what it
asks for. If the others then come after all, their batches find no room, are not acknowledged,
and are sent again when there is room: slower, but nothing is lost and nobody starves behind an
idle producer.

Pure arithmetic, property-tested; credit on the wire is absolute, see docs/wire.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass
class Account:
    """The bytes of one session since it began."""

    accepted_bytes: int = 0
    limit_bytes: int = 0
    needed_bytes: int = 0  # of its next batch, told by a producer that waits for credit

    @property
    def outstanding_bytes(self) -> int:
        """Promised and not yet used."""
        return max(0, self.limit_bytes - self.accepted_bytes)

    @property
    def starved(self) -> bool:
        """It waits, and what it holds does not suffice."""
        return self.needed_bytes > self.outstanding_bytes


def grant(account: Account, others: Iterable[Account], room_bytes: int, ring_bytes: int) -> bool:
    """Raise the limit of `account` as far as is fair; True when it has risen.

    Args:
        others: the accounts of all other live sessions.
        room_bytes: bytes of the ring that are free, or that may be evicted.
        ring_bytes: bytes of the whole ring.
    """
    sessions, promised = 1, 0
    for other in others:
        sessions += 1
        promised += other.outstanding_bytes
    fair = ring_bytes // (2 * sessions)
    window = min(fair, max(0, room_bytes - promised))
    if account.needed_bytes > window and room_bytes >= account.needed_bytes:
        window = account.needed_bytes
    limit = account.accepted_bytes + window
    if limit <= account.limit_bytes:
        return False
    account.limit_bytes = limit
    return True
