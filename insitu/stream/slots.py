"""Collections of slot numbers on preallocated arrays: a list, a queue, and an order of age.

A slot is a row of the ring, a number in [0, capacity). Every operation on `n` slots costs
O(n) (amortised, for the order of age) and allocates nothing that lasts.
"""

from __future__ import annotations

import numpy as np

from insitu.sampling import Indices


class SlotList:
    """Distinct slots at positions 0..len-1; removing moves the last ones into the holes."""

    def __init__(self, capacity: int) -> None:
        self._items = np.empty(capacity, np.int64)
        self._place = np.full(capacity, -1, np.int64)
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def slots(self) -> Indices:
        """All slots by position, as a view that the next change makes invalid."""
        return self._items[: self._length]

    def at(self, positions: Indices) -> Indices:
        return self._items[positions]

    def contains(self, slots: Indices) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Whether each slot is in the list."""
        inside: np.ndarray[tuple[int], np.dtype[np.bool_]] = self._place[slots] >= 0
        return inside

    def append(self, slots: Indices) -> None:
        end = self._length + len(slots)
        self._items[self._length : end] = slots
        self._place[slots] = np.arange(self._length, end)
        self._length = end

    def remove(self, slots: Indices) -> None:
        """Take out slots, all different and all in the list."""
        places = self._place[slots]
        end = self._length - len(slots)
        self._place[slots] = -1
        tail = self._items[end : self._length]
        movers = tail[self._place[tail] >= 0]
        holes = places[places < end]
        self._items[holes] = movers
        self._place[movers] = holes
        self._length = end

    def replace(self, slots: Indices) -> None:
        """Hold exactly these slots, in this order."""
        self._place[self.slots()] = -1
        self._length = 0
        self.append(slots)


class SlotQueue:
    """Slots first in, first out."""

    def __init__(self, capacity: int) -> None:
        self._items = np.empty(capacity, np.int64)
        self._head = 0
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def push(self, slots: Indices) -> None:
        capacity = len(self._items)
        start = (self._head + self._length) % capacity
        end = start + len(slots)
        if end <= capacity:
            self._items[start:end] = slots
        else:
            cut = capacity - start
            self._items[start:] = slots[:cut]
            self._items[: end - capacity] = slots[cut:]
        self._length += len(slots)

    def peek(self, count: int) -> Indices:
        """The oldest `count` slots, a copy."""
        capacity = len(self._items)
        end = self._head + count
        if end <= capacity:
            return self._items[self._head : end].copy()
        return np.concatenate((self._items[self._head :], self._items[: end - capacity]))

    def pop(self, count: int) -> Indices:
        slots = self.peek(count)
        self._head = (self._head + count) % len(self._items)
        self._length -= count
        return slots

    def slots(self) -> Indices:
        return self.peek(self._length)

    def replace(self, slots: Indices) -> None:
        self._head = self._length = 0
        self.push(slots)


class SlotAges:
    """The order in which slots came into a `SlotList`; entries that left it are skipped lazily."""

    def __init__(self, capacity: int, members: SlotList) -> None:
        self._members = members
        self._slot = np.empty(2 * capacity, np.int64)
        self._serial = np.empty(2 * capacity, np.int64)
        self._latest = np.zeros(capacity, np.int64)  # slot -> serial of its latest entry
        self._head = self._tail = self._next = 0

    def push(self, slots: Indices) -> None:
        """Note slots that have just been appended to the members."""
        if self._tail + len(slots) > len(self._slot):
            self._compact()
        end = self._tail + len(slots)
        serials = np.arange(self._next, self._next + len(slots))
        self._slot[self._tail : end] = slots
        self._serial[self._tail : end] = serials
        self._latest[slots] = serials
        self._tail, self._next = end, self._next + len(slots)

    def oldest(self, count: int) -> Indices:
        """The `count` oldest members, or all of them when there are fewer."""
        found, head, missing = [], self._head, min(count, len(self._members))
        while missing > 0:
            end = min(head + max(missing, 64), self._tail)
            assert end > head, "a member without an entry"
            valid = self._valid(head, end)
            if head == self._head and not valid.any():
                self._head = end  # nobody looks at these again
            found.append(self._slot[head:end][valid][:missing])
            missing -= len(found[-1])
            head = end
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def in_order(self) -> Indices:
        """All members, the oldest first."""
        return self._slot[self._head : self._tail][self._valid(self._head, self._tail)]

    def replace(self, slots: Indices) -> None:
        self._head = self._tail = 0
        self.push(slots)

    def _valid(self, start: int, end: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        slots = self._slot[start:end]
        current: np.ndarray[tuple[int], np.dtype[np.bool_]] = (
            self._latest[slots] == self._serial[start:end]
        )
        return current & self._members.contains(slots)

    def _compact(self) -> None:
        valid = self._valid(self._head, self._tail)
        slots = self._slot[self._head : self._tail][valid]
        serials = self._serial[self._head : self._tail][valid]
        self._head, self._tail = 0, len(slots)
        self._slot[: len(slots)] = slots
        self._serial[: len(slots)] = serials
