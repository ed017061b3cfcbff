"""The place where the stream log will stand: every accepted batch, on disk, to be read again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from insitu.stream.stamp import Stamp


class StreamLog(Protocol):
    """What ingest will ask of a log: acknowledged means appended, durable means synced."""

    def append(self, stamp: Stamp, rows: int, payload: memoryview) -> int:
        """Write one batch and return its offset in the log."""

    def sync(self) -> int:
        """Make everything appended survive power loss; returns the offset that is safe."""

    def read(self, offset: int) -> Iterator[tuple[Stamp, int, memoryview]]:
        """The batches from an offset on, in order."""
