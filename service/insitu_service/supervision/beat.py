"""A heartbeat that one thread gives and others watch: is it alive, or stuck?"""

from __future__ import annotations

import time
from collections.abc import Callable


class Beat:
    """Remembers when its owner last came by.

    Args:
        limit_seconds: older than this counts as stuck.
        clock: seconds, rising.
    """

    def __init__(self, limit_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit_seconds = limit_seconds
        self._clock = clock
        self._last = clock()

    def __call__(self) -> None:
        self._last = self._clock()

    @property
    def age_seconds(self) -> float:
        return self._clock() - self._last

    @property
    def alive(self) -> bool:
        return self.age_seconds < self._limit_seconds
