"""Which of several services a producer talks to, and when it turns to the next one.

Each service is for itself: it has its own log, model and count of batches. So a producer stays
with the one it has until that one is gone for longer than its patience, refuses it, or drains;
then the next one in the list is tried, round and round. It does not go back by itself.
"""

from __future__ import annotations


class Failover:
    """The place in a list of services. No I/O and no clock.

    Args:
        services: how many there are; with one of them it is stayed with.
        patience_seconds: how long the present one may be away.
        index: which one comes first.

    Example:
        >>> failover = Failover(2, patience_seconds=10.0)
        >>> failover.leaves(0.0), failover.leaves(9.0), failover.leaves(10.0)
        (False, False, True)
        >>> failover.turn(10.0)
        >>> failover.index
        1
    """

    def __init__(self, services: int = 1, patience_seconds: float = 10.0, index: int = 0) -> None:
        self.index = index if index < services else 0
        self.switches = 0
        self._services = services
        self._patience_seconds = patience_seconds
        self._away_since: float | None = None
        self._turns = 0
        self._refused: set[int] = set()
        self._turned_away: set[int] = set()

    @property
    def has_choice(self) -> bool:
        """Whether there is another service that has not refused for good."""
        return bool(self._others())

    @property
    def was_turned_away(self) -> bool:
        """The present service has said no since any of them said yes."""
        return self.index in self._turned_away

    @property
    def tried_all(self) -> bool:
        """All were turned to since any of them served us."""
        return self._turns >= self._services

    def well(self) -> None:
        """The present one serves us; the others may be asked again another time."""
        self._turns = 0
        self._away_since = None
        self._refused.clear()
        self._turned_away.clear()

    def refused(self, *, for_good: bool) -> None:
        """The present one said no."""
        self._turned_away.add(self.index)
        if for_good:
            self._refused.add(self.index)

    def leaves(self, now: float, *, at_once: bool = False) -> bool:
        """Whether it is time for the next one, as the present one does not serve us."""
        if not self.has_choice:
            return False
        if self._away_since is None:
            self._away_since = now
        return at_once or self.was_turned_away or now - self._away_since >= self._patience_seconds

    def turn(self, now: float) -> None:
        """On to the next one that has not refused for good."""
        self.index = self._others()[0]
        self._away_since = now
        self.switches += 1
        self._turns += 1

    def _others(self) -> list[int]:
        places = [(self.index + step) % self._services for step in range(1, self._services)]
        return [place for place in places if place not in self._refused]


def service_name(index: int) -> str:
    """By which a send window knows a service: its place, as addresses change between runs."""
    return str(index) if index else ""


def service_index(name: str) -> int:
    """The place of a service by that name."""
    return int(name) if name else 0
