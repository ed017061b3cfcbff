"""Staging: room for batches that are received while the ring is not theirs yet.

When records wait in the log to enter the ring, what arrives goes to the log behind them. Its
bytes are put together here, and its room is free again as soon as it is logged.
"""

from __future__ import annotations

import numpy as np

from insitu.schema import Schema
from insitu.stream.ring import Reservation, Ring
from insitu.stream.slots import SlotQueue


class Staging:
    """A small ring, allocated at its first use.

    Args:
        capacity_samples: that are put together at a time.
    """

    def __init__(self, schema: Schema, capacity_samples: int) -> None:
        self.capacity_samples = capacity_samples
        self._schema = schema
        self._ring: Ring | None = None
        self._free = SlotQueue(capacity_samples)
        self._free.push(np.arange(capacity_samples))

    @property
    def free_samples(self) -> int:
        return len(self._free)

    def reserve(self, rows: int) -> Reservation | None:
        """Room for a batch; None when there is none now."""
        if rows > len(self._free):
            return None
        if self._ring is None:
            self._ring = Ring(self._schema, self.capacity_samples)
        return Reservation(self._ring, self._free.pop(rows))

    def holds(self, reservation: Reservation) -> bool:
        """Whether this room is from here."""
        return self._ring is not None and reservation.lies_in(self._ring)

    def give_back(self, reservation: Reservation) -> None:
        """The batch is logged, or given up."""
        assert reservation.open, "a reservation is given back once"
        reservation.open = False
        self._free.push(reservation.slots)

    def clear(self) -> None:
        """Let go of the memory, if no batch is in it."""
        if len(self._free) == self.capacity_samples:
            self._ring = None
