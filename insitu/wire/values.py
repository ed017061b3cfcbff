"""What a value in a message may be: checks that a message's fields are annotated with.

A check returns whether a decoded value is acceptable and says in words what would be.
They are strict about types: msgpack tells true from 1, and so do we.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

#: A cursor is the producer's own place in its run, such as the simulation step.
Cursor = int | float | str | None

#: Bytes that are not copied: whatever the sender's window or the socket holds.
Payload = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Check:
    """Whether a decoded value is acceptable, and what would be, in words."""

    accepts: Callable[[Any], bool]
    allowed: str


def whole(low: int, high: int) -> Check:
    return Check(
        lambda v: type(v) is int and low <= v <= high, f"a whole number in [{low}, {high}]"
    )


def text(most: int) -> Check:
    return Check(lambda v: type(v) is str and len(v) <= most, f"text of at most {most} characters")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < math.inf


def _is_cursor(value: object) -> bool:
    if value is None:
        return True
    if type(value) is int:
        return -(2**63) <= value < 2**63
    if type(value) is float:
        return math.isfinite(value)
    return type(value) is str and len(value) <= 256


def _is_texts(value: object) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) <= 32
        and all(type(v) is str and len(v) <= 64 for v in value)
    )


def _is_piece(value: object) -> bool:
    if value is None:
        return True
    if not (isinstance(value, list | tuple) and len(value) == 2):
        return False
    offset, shape = value
    return all(
        isinstance(axes, list | tuple)
        and len(axes) <= 16
        and all(type(v) is int and 0 <= v < 2**63 for v in axes)
        for axes in (offset, shape)
    ) and len(offset) == len(shape)


MAX_BATCH_ROWS = 65_536
CURSOR = Check(_is_cursor, "nil, a whole number of 64 bits, a finite float, or text up to 256")
TASK = text(128)

#: the largest number in a message
MOST_COUNT = 2**63 - 1
Count = Annotated[int, whole(0, MOST_COUNT)]
MaybeCount = Annotated[
    int | None,
    Check(
        lambda v: v is None or (type(v) is int and 0 <= v <= MOST_COUNT),
        f"nil, or a whole number in [0, {MOST_COUNT}]",
    ),
]
Number = Annotated[int, whole(1, MOST_COUNT)]
Hash = Annotated[int, whole(0, 2**64 - 1)]
Word = Annotated[int, whole(0, 2**32 - 1)]
Rows = Annotated[int, whole(1, MAX_BATCH_ROWS)]
Seconds = Annotated[float, Check(_is_number, "a finite number of 0 or more")]
Truth = Annotated[bool, Check(lambda v: type(v) is bool, "true or false")]
Name = Annotated[str, text(128)]
Text = Annotated[str, text(4096)]
Token = Annotated[str, text(1024)]
Texts = Annotated[tuple[str, ...], Check(_is_texts, "at most 32 texts of at most 64 characters")]
CursorValue = Annotated[Cursor, CURSOR]
SampleIds = Annotated[
    bytes | None,
    Check(
        lambda v: v is None or (type(v) is bytes and len(v) % 8 == 0),
        "nil, or 8 bytes (int64, little-endian) a row",
    ),
]
Piece = Annotated[
    tuple[tuple[int, ...], tuple[int, ...]] | None,
    Check(_is_piece, "nil, or [offset, shape], equally long lists of whole numbers"),
]
