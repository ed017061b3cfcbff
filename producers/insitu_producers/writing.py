"""How pushed arrays become rows of the window, and the checksums that are taken on the way."""

from __future__ import annotations

from insitu.wire.batches import Span
from insitu.wire.checksum import checksum
from insitu.wire.rows import Array

#: from this size on a push is hashed when it is copied, below when it is sent
DIGEST_BYTES = 256 << 10


def write(spans: list[Span], columns: list[Array]) -> None:
    """Copy the columns' rows into the reserved rows."""
    if len(spans) == 1:
        span = spans[0]
        for field, column in zip(span.slab.fields, columns, strict=True):
            field[span.start : span.start + span.rows] = column
        return
    done = 0
    for span in spans:
        for field, column in zip(span.slab.fields, columns, strict=True):
            field[span.start : span.start + span.rows] = column[done : done + span.rows]
        done += span.rows


def digests_of(spans: list[Span], kind: str | None) -> list[tuple[str, int] | None]:
    """Checksums of large spans, taken now because their bytes are in this core's cache.

    The sending thread, on another core, would fetch them all once more. Small pushes merge, and
    what they merge to is not known yet.
    """
    return [
        None if kind is None else (kind, checksum(kind, span.slab.bytes_of(span.start, span.rows)))
        for span in spans
    ]
