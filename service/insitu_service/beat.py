"""A heartbeat that one thread gives and others watch: is it alive, or stuck?"""

from __future__ import annotations

import time


class Beat:
    """Remembers when its owner last came by.

    Args:
        limit_seconds: older than this counts as stuck.
    """

    def __init__(self, limit_seconds: float) -> None:
        self._limit_seconds = limit_seconds
        self._last = time.monotonic()

    def __call__(self) -> None:
        self._last = time.monotonic()

    @property
    def age_seconds(self) -> float:
        return time.monotonic() - self._last

    @property
    def alive(self) -> bool:
        return self.age_seconds < self._limit_seconds
