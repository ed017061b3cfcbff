"""Peers that talk too much to no purpose: they are not listened to for a while.

A message that leads to nothing costs as much as one that does, if it is decoded, logged and
answered. Who sends more of these than a rate allows is shut out for a second: what comes from it
is counted and let go of undecoded, so that others wait for it no longer than that takes. Who goes
on with it is shut out for twice as long each time. The protocol holds when messages are lost, so a
producer that is shut out by mistake loses nothing.
"""

from __future__ import annotations

from insitu_service.security.rate_limit import PeerRateLimits

#: the first time, and at most
_SHUT_SECONDS = (1.0, 64.0)


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
        >>> [gate.wasted(b"peer", now=1.5) for _ in range(3)][-1], gate.is_shut(b"peer", now=3.0)
        (True, True)
    """

    def __init__(self, per_second: float, most_peers: int) -> None:
        self._limits = PeerRateLimits(per_second, most_peers)
        self._most_peers = most_peers
        self._shut: dict[bytes, tuple[float, float]] = {}  # until when, and for how long

    def wasted(self, peer: bytes, now: float) -> bool:
        """A message of this peer led to nothing; True when the gate shuts because of it."""
        if self._limits.allows(peer, now):
            return False
        first, most = _SHUT_SECONDS
        until, seconds = self._shut.pop(peer, (now, 0.0))
        again = now - until <= seconds  # it has not been good for as long as it was shut out
        seconds = max(first, min(2 * seconds, most)) if again else first
        self._shut[peer] = now + seconds, seconds
        if len(self._shut) > self._most_peers:
            del self._shut[next(iter(self._shut))]
        return True

    def is_shut(self, peer: bytes, now: float) -> bool:
        """Whether what this peer sends is to be let go of."""
        return bool(self._shut) and now < self._shut.get(peer, (now, 0.0))[0]
