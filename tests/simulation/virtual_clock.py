"""Virtual time: a queue of things to do, in the order of their times."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable

#: when a simulation begins, in seconds; not 0, which some code may take for "never"
START_SECONDS = 1000.0


class VirtualClock:
    """Seconds that pass from event to event only; of equal times the first asked comes first."""

    def __init__(self) -> None:
        self.now = START_SECONDS
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = 0

    def __call__(self) -> float:
        return self.now

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        self._serial += 1
        heapq.heappush(self._queue, (self.now + seconds, self._serial, action))

    def step(self) -> None:
        """Go to the next event and let it happen."""
        self.now, _, action = heapq.heappop(self._queue)
        action()

    @property
    def next_at(self) -> float:
        """When the next event is; infinity when there is none."""
        return self._queue[0][0] if self._queue else math.inf


class Alarm:
    """Calls `action` at the earliest of the times that were set since the last call."""

    def __init__(self, clock: VirtualClock, action: Callable[[], None]) -> None:
        self._clock = clock
        self._action = action
        self._at: float | None = None

    def within(self, seconds: float) -> None:
        at = self._clock.now + seconds
        if self._at is None or at < self._at:
            self._at = at
            self._clock.after(seconds, self._ring)

    def off(self) -> None:
        self._at = None

    def _ring(self) -> None:
        if self._at is not None and self._clock.now >= self._at:
            self._at = None
            self._action()
