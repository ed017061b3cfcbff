"""Credit: promises fit into the room, the waiting are served, and nobody starves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from insitu_service.ingest.credit import window_bytes

RING = 1 << 20


def window(needed: int = 0, promised: int = 0, sessions: int = 1, room: int = RING) -> int:
    return window_bytes(
        needed_bytes=needed,
        promised_to_others_bytes=promised,
        sessions=sessions,
        room_bytes=room,
        ring_bytes=RING,
    )


def test_one_producer_may_fill_half_of_the_ring() -> None:
    assert window() == RING // 2


def test_room_promised_to_others_is_not_promised_twice() -> None:
    assert window(promised=RING // 8, sessions=2, room=RING // 4) == RING // 8


def test_a_waiting_producer_is_served_from_room_that_idle_ones_only_hold() -> None:
    assert window(promised=RING, sessions=2) == 0
    assert window(needed=4096, promised=RING, sessions=2) == 4096
    assert window(needed=RING, promised=RING, sessions=2) == RING // 4


def test_without_room_nobody_is_promised_anything() -> None:
    assert window(needed=4096, room=0) == 0


def test_a_window_holds_a_sample_however_small_the_ring_and_many_the_producers() -> None:
    row = RING // 100
    crowd = {"sessions": 64, "room_bytes": RING, "ring_bytes": RING, "row_bytes": row}
    assert window_bytes(needed_bytes=0, promised_to_others_bytes=0, **crowd) == row
    assert window_bytes(needed_bytes=8 * row, promised_to_others_bytes=RING, **crowd) == row


@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 1 << 18)), max_size=200),
    st.integers(1, 8),
)
def test_promises_never_exceed_the_room(uses: list[tuple[int, int]], sessions: int) -> None:
    """Random use by producers none of which waits: credit is absolute and only grows."""
    outstanding = [0] * sessions
    filled = 0
    for index, size in uses:
        index %= sessions
        others = sum(outstanding) - outstanding[index]
        granted = window(promised=others, sessions=sessions, room=RING - filled)
        outstanding[index] = max(outstanding[index], granted)
        assert sum(outstanding) <= RING - filled
        used = min(size, outstanding[index])
        outstanding[index] -= used
        filled += used
        if filled > RING // 2:
            filled = 0  # the trainer came by
