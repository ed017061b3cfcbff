"""Credit: promises fit into the room, the blocked are served, and nobody starves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from insitu_service.credit import Account, grant

RING = 1 << 20


def test_one_producer_may_fill_half_of_the_ring() -> None:
    account = Account()
    assert grant(account, [], RING, RING)
    assert account.limit_bytes == RING // 2
    assert not grant(account, [], RING, RING), "nothing new to say"


def test_room_promised_to_others_is_not_promised_twice() -> None:
    first, second = Account(), Account()
    grant(first, [second], RING // 4, RING)
    grant(second, [first], RING // 4, RING)
    assert first.outstanding_bytes + second.outstanding_bytes <= RING // 4


def test_a_waiting_producer_is_served_from_room_that_idle_ones_only_hold() -> None:
    idle, waiting = Account(limit_bytes=RING), Account(needed_bytes=4096)
    assert waiting.starved
    assert grant(waiting, [idle], RING, RING)
    assert not waiting.starved and waiting.outstanding_bytes == 4096


def test_without_room_nobody_is_promised_anything() -> None:
    waiting = Account(needed_bytes=4096)
    assert not grant(waiting, [], 0, RING)
    assert waiting.limit_bytes == 0


@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 1 << 18)), max_size=200),
    st.integers(1, 8),
)
def test_promises_never_exceed_the_room(uses: list[tuple[int, int]], sessions: int) -> None:
    """Random use by honest producers, none of which asks beyond its window."""
    accounts = [Account() for _ in range(sessions)]
    filled = 0
    for index, size in uses:
        account = accounts[index % sessions]
        others = [other for other in accounts if other is not account]
        before = account.limit_bytes
        grant(account, others, RING - filled, RING)
        assert account.limit_bytes >= before, "a promise is never taken back"
        assert sum(a.outstanding_bytes for a in accounts) <= RING - filled
        used = min(size, account.outstanding_bytes)
        account.accepted_bytes += used
        filled += used
        if filled > RING // 2:
            filled = 0  # the trainer came by
