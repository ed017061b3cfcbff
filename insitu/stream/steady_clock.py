"""A wall clock that does not jump: read once, then carried on by the monotonic clock.

A wall clock is set, forwards and backwards, by time servers, by people and by machines that wake
up. What is written into the log by this one rises by the seconds that have passed, so that nothing
expires early, nothing is kept for ever, and a replay at the original pace waits as long as it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class SteadyClock:
    """Nanoseconds since 1970 by the wall clock of the beginning; call it.

    Args:
        wall: nanoseconds since 1970; may jump.
        monotonic: nanoseconds; never goes back.

    Example:
        >>> wall = iter([1_000, -5_000]).__next__
        >>> clock = SteadyClock(wall, iter([10, 17, 40]).__next__)
        >>> clock(), clock()
        (1007, 1030)
    """

    def __init__(
        self,
        wall: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._monotonic = monotonic
        self._began = monotonic()
        self._origin = wall()

    def __call__(self) -> int:
        return self._origin + self._monotonic() - self._began

    def not_before(self, time_ns: int) -> None:
        """Go on from there at least: an earlier life has seen this time already."""
        self._origin += max(0, time_ns - self())
