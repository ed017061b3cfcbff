"""Credit: how many bytes each producer may send, so that the ring is never overrun.

Every session may have a *window* of bytes under way. A session's fair window is the ring's
capacity divided by twice the number of sessions (twice, so that the trainer empties one half
while the other fills), and one sample at least. Promises are kept: the sum of the windows
granted never exceeds the room, with one exception. When a session waits for more than is
unpromised (it says so in a PING) and the room itself is free, because others hold promises
that they do not use (`stock.py` says who), it is granted what it waits for, up to the fair
window. If the others then come after all, their batches find no room, are not acknowledged, and
are sent again when there is room: slower, but nothing is lost and nobody starves behind an idle
producer.

Pure arithmetic, property-tested; credit on the wire is absolute, see docs/wire.md.
"""

from __future__ import annotations


def window_bytes(
    *,
    needed_bytes: int,
    promised_to_others_bytes: int,
    sessions: int,
    room_bytes: int,
    ring_bytes: int,
    row_bytes: int = 1,
    busy_to_others_bytes: int = 0,
) -> int:
    """Bytes that one session may have under way.

    Args:
        needed_bytes: what the session waits for; 0 when it does not wait.
        promised_to_others_bytes: granted to all other sessions and not yet used.
        sessions: number of live sessions, this one included.
        room_bytes: bytes of the ring that are free, or that may be evicted.
        ring_bytes: bytes of the whole ring.
        row_bytes: of one sample; no window is fair that does not hold one.
        busy_to_others_bytes: of what is promised to others, what they are using.

    Example:
        >>> window_bytes(needed_bytes=0, promised_to_others_bytes=0, sessions=1,
        ...              room_bytes=1000, ring_bytes=1000)
        500
    """
    fair = max(row_bytes, ring_bytes // (2 * sessions))
    unpromised = max(0, room_bytes - promised_to_others_bytes)
    window = min(fair, unpromised)
    if needed_bytes > window:
        unused = max(0, room_bytes - busy_to_others_bytes)
        window = min(max(window, min(needed_bytes, fair, unused)), room_bytes)
    return window
