"""Peers that talk too much to no purpose: they are not listened to for a while.

A message that leads to nothing costs as much as one that does, if it is decoded, logged and
answered. Who sends more of these than a rate allows is shut out for a moment: what comes from it
is counted and let go of undecoded, so that others wait for it no longer than that takes. The
protocol holds when messages are lost, so a producer that is shut out by mistake loses nothing.
"""

from __future__ import annotations

from insitu_service.security.rate_limit import PeerRateLimits

_SHUT_SECONDS = 1.0


class FloodGate:
    """Says who is not listened to.

    Args:
        per_second: messages of one peer that lead to nothing, on average and at once.
        most_peers: that are remembered.

    Example:
        >>> gate = FloodGate(2.0, most_peers=8)
        >>> [gate.wasted(b"peer", now=0.0) for _ in range(3)]
        [False, False, True]
        >>> gate.is_shut(b"peer", now=0.5), gate.is_shut(b"other", now=0.5)
        (True, False)
        >>> gate.is_shut(b"peer", now=1.5)
        False
    """

    def __init__(self, per_second: float, most_peers: int) -> None:
        self._limits = PeerRateLimits(per_second, most_peers)
        self._most_peers = most_peers
        self._shut_until: dict[bytes, float] = {}

    def wasted(self, peer: bytes, now: float) -> bool:
        """A message of this peer led to nothing; True when the gate shuts because of it."""
        if self._limits.allows(peer, now):
            return False
        self._shut_until.pop(peer, None)
        self._shut_until[peer] = now + _SHUT_SECONDS
        if len(self._shut_until) > self._most_peers:
            del self._shut_until[next(iter(self._shut_until))]
        return True

    def is_shut(self, peer: bytes, now: float) -> bool:
        """Whether what this peer sends is to be let go of."""
        if not self._shut_until:
            return False
        until = self._shut_until.get(peer)
        if until is None:
            return False
        if now >= until:
            del self._shut_until[peer]
        return now < until
