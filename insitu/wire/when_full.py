"""What becomes of a push when the send window is full: one small class a policy.

`reserve` gives the memory for a push, or None: then the push waits (`waits`) or is dropped for
the reason `reason`. Whatever is dropped is counted in the window's books.
"""

from __future__ import annotations

from typing import Protocol

from insitu.errors import ProducerError
from insitu.wire.batches import Span
from insitu.wire.sender import SendWindow


class WhenFull(Protocol):
    """A policy; one object a producer, as it may remember the pressure."""

    waits: bool
    reason: str
    #: it has a say in every push, also while there is room
    chooses: bool

    def reserve(self, window: SendWindow, rows: int) -> list[Span] | None: ...


class Block:
    """Wait for room; how long is the caller's affair, then the push is dropped as `timeout`."""

    waits = True
    reason = "timeout"
    chooses = False

    def reserve(self, window: SendWindow, rows: int) -> list[Span] | None:
        return window.reserve(rows)


class DropNewest:
    """Drop the push that does not fit."""

    waits = False
    reason = "newest"
    chooses = False

    def reserve(self, window: SendWindow, rows: int) -> list[Span] | None:
        return window.reserve(rows)


class DropOldest:
    """Drop the oldest batches that were never sent, until the push fits.

    Pushes that merged are dropped together. Batches that were sent are never dropped; when
    nothing else is left, the push itself is (and is counted as `newest`).
    """

    waits = False
    reason = "newest"
    chooses = False

    def reserve(self, window: SendWindow, rows: int) -> list[Span] | None:
        while (spans := window.reserve(rows)) is None and window.drop_oldest_unsent("oldest"):
            pass
        return spans


class Thin:
    """Keep every k-th push while the pressure lasts, so that what arrives covers the whole run.

    k doubles (up to 1,024) each time that a push does not fit, and halves with each push that
    was kept while no more than half of the window was in use.
    """

    waits = False
    reason = "thinned"
    chooses = True
    MOST = 1024

    def __init__(self) -> None:
        self.stride = 1
        self._since_kept = 0

    def reserve(self, window: SendWindow, rows: int) -> list[Span] | None:
        self._since_kept += 1
        if self._since_kept < self.stride:
            return None
        self._since_kept = 0
        relaxed = window.pool.used_ratio <= 0.5
        spans = window.reserve(rows)
        if spans is None:
            self.stride = min(2 * self.stride, self.MOST)
        elif relaxed:
            self.stride = max(1, self.stride // 2)
        return spans


POLICIES: dict[str, type[WhenFull]] = {
    "block": Block,
    "drop_newest": DropNewest,
    "drop_oldest": DropOldest,
    "thin": Thin,
}


def when_full(name: str) -> WhenFull:
    """A new policy by name."""
    if name not in POLICIES:
        raise ProducerError(f"when_full is {name!r}", allowed=", ".join(POLICIES))
    return POLICIES[name]()
