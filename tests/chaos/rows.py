"""The rows that everything here pushes: a function of producer and row number alone.

A row's sample id says whose it is and which: `ROWS_OF_ONE * producer + row`. Whoever makes row
17 makes the same bytes. Needs no torch, so that producers' processes start at once.
"""

from __future__ import annotations

import numpy as np

from insitu.schema import Schema
from insitu.wire.rows import Array

ROWS_OF_ONE = 1_000_000_000
CLASSES = 4
#: so that a segment of the log, 1 MiB at least, is full after some thousand rows
FEATURES = 64
STREAM = "chaos"
SCHEMA = Schema.of({"x": ("float32", (FEATURES,)), "y": ("int64", ())})
#: one row in so many is not finite, and is to be quarantined
_BAD_EVERY = 97


def rows_of(producer: int, start: int, stop: int) -> dict[str, Array]:
    """Rows `[start, stop)` of a producer, all of them good."""
    return rows_at(ids_of(producer, start, stop))


def rows_at(ids: Array) -> dict[str, Array]:
    """The rows with these sample ids."""
    labels = ids * 7 % CLASSES
    noise = np.sin((ids % 100_003)[:, None] * np.arange(1, FEATURES + 1) * 0.7391)
    x = (noise + 2.0 * np.eye(CLASSES, FEATURES)[labels]).astype(np.float32)
    return {"x": x, "y": labels.astype(np.int64)}


def ids_of(producer: int, start: int, stop: int) -> Array:
    """Their sample ids."""
    return ROWS_OF_ONE * producer + np.arange(start, stop, dtype=np.int64)


def is_bad(row: int) -> bool:
    """Whether a producer's process pushes this row with NaN in it."""
    return row % _BAD_EVERY == _BAD_EVERY - 1
