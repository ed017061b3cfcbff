"""Rates that may be exceeded for a moment and not for long: token buckets."""

from __future__ import annotations


class RateLimit:
    """Lets through `per_second` events a second on average, and as many at once.

    Args:
        per_second: events, more than 0; below 1 one event at once is let through.

    Example:
        >>> limit = RateLimit(2.0)
        >>> [limit.allows(now) for now in (0.0, 0.0, 0.0, 0.5, 0.6)]
        [True, True, False, True, False]
    """

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._most = max(1.0, per_second)
        self._left = self._most
        self._at: float | None = None

    def allows(self, now: float) -> bool:
        """Count an event at `now`, in seconds of a clock that only rises."""
        if self._at is not None:
            earned = max(0.0, now - self._at) * self._per_second
            self._left = min(self._most, self._left + earned)
        self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


class PeerRateLimits:
    """A `RateLimit` for each peer; of the peers that were heard last.

    Args:
        per_second: events of one peer.
        most_peers: that are remembered; one that is forgotten begins anew.
    """

    def __init__(self, per_second: float, most_peers: int) -> None:
        self._per_second = per_second
        self._most_peers = most_peers
        self._limits: dict[bytes, RateLimit] = {}

    def allows(self, peer: bytes, now: float) -> bool:
        """Count an event of a peer at `now`."""
        limit = self._limits.pop(peer, None) or RateLimit(self._per_second)
        self._limits[peer] = limit  # the newest last, so that the oldest is forgotten
        if len(self._limits) > self._most_peers:
            del self._limits[next(iter(self._limits))]
        return limit.allows(now)
