"""The free slots of the ring, and when to tell those who wait for some."""

from __future__ import annotations

import numpy as np

from insitu.sampling import Indices
from insitu.stream.slots import SlotQueue


class Room:
    """Free slots, lent in the order in which they became free.

    To wake another thread costs more than a draw, so draws are not told of one by one: there is
    news when a reservation that failed fits now, when more than a sixteenth of the ring became
    free since the last time, and, while the learner has nothing to do, when any slot did and
    less than a quarter is free: whoever waits for it may have what the learner waits for.

    Args:
        drops: a reservation may also succeed by dropping samples, so whenever slots became free
            one that failed is worth another try.
    """

    def __init__(self, capacity: int, *, drops: bool) -> None:
        self._capacity = capacity
        self._drops = drops
        self._free = SlotQueue(capacity)
        self._free.push(np.arange(capacity))
        self._rows_wanted = 0  # the smallest reservation that failed since `told`
        self._rows_freed = 0  # since `told`

    def __len__(self) -> int:
        return len(self._free)

    def take(self, rows: int) -> Indices:
        return self._free.pop(rows)

    def put_back(self, slots: Indices) -> None:
        """Slots that the taker did not use, or made free for itself."""
        self._free.push(slots)

    def free(self, slots: Indices) -> None:
        """Slots that the learner is done with."""
        self._free.push(slots)
        self._rows_freed += len(slots)

    def want(self, rows: int) -> None:
        """Somebody was refused so many slots."""
        self._rows_wanted = min(rows, self._rows_wanted or rows)

    @property
    def is_wanted(self) -> bool:
        return self._rows_wanted > 0

    def has_news(self, *, idle: bool) -> bool:
        """Whether to tell now.

        Args:
            idle: there is nothing to draw.
        """
        free, freed = len(self._free), self._rows_freed
        if self._rows_wanted and self._drops:
            return freed > 0
        if 0 < self._rows_wanted <= free:
            return True
        if idle and free < self._capacity // 4:
            return freed > 0
        return freed > self._capacity // 16

    def told(self) -> None:
        self._rows_wanted = self._rows_freed = 0

    def replace(self, slots: Indices) -> None:
        """Have exactly these slots free."""
        self._free.replace(slots)
