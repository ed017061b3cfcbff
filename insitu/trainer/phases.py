"""Where the time of a step goes, by the host's clock."""

from __future__ import annotations

from time import perf_counter

from insitu.report import PHASES


class PhaseClock:
    """Adds the time since the last call to a phase.

    On a GPU the host runs ahead of the device, so a phase is the time to *launch* its work; the
    phase that waits for the device (`optimizer`, where the loss is checked) holds the rest.

    Example:
        >>> clock = PhaseClock()
        >>> clock.ends("forward")
        >>> clock.seconds["forward"] > 0.0, clock.seconds["wait"]
        (True, 0.0)
    """

    __slots__ = ("_since", "seconds")

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self._since = perf_counter()

    def ends(self, phase: str) -> None:
        """The time since the last call belongs to `phase`."""
        now = perf_counter()
        self.seconds[phase] += now - self._since
        self._since = now
