"""Where a run that resumes began, in HELLO: the cursor that its row 0 lies right behind.

A service that goes back to an older state, or another one, may not know of the run. Its own newest
cursor is another one then, and must not be taken for the place that the run's rows count from.

It is told among the capabilities, as text in pieces, so a service that does not know it ignores it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from insitu.wire.values import CURSOR, Cursor

_PREFIX = "began:"
#: a capability has 64 characters at most
_PIECE = 64 - len(_PREFIX)


@dataclass(frozen=True, slots=True)
class Began:
    """What a HELLO says of it.

    Args:
        cursor: None where there was none: the run began at the very beginning.
    """

    cursor: Cursor

    def capabilities(self) -> tuple[str, ...]:
        """As it is said in HELLO.

        Example:
            >>> Began(12).capabilities(), Began(0.5).capabilities(), Began("a").capabilities()
            (('began:i12',), ('began:f0x1.0000000000000p-1',), ('began:ta',))
        """
        text = _text(self.cursor)
        starts = range(0, max(1, len(text)), _PIECE)
        return tuple(_PREFIX + text[start : start + _PIECE] for start in starts)

    @classmethod
    def said_in(cls, capabilities: Sequence[str]) -> Began | None:
        """None where nothing is said, or nothing that can be understood."""
        pieces = [each[len(_PREFIX) :] for each in capabilities if each.startswith(_PREFIX)]
        if not pieces:
            return None
        text = "".join(pieces)
        try:
            cursor = _cursor(text)
        except (ValueError, OverflowError):
            return None
        return cls(cursor) if CURSOR.accepts(cursor) else None


def _text(cursor: Cursor) -> str:
    if cursor is None:
        return ""
    if isinstance(cursor, str):
        return "t" + cursor
    return f"f{cursor.hex()}" if isinstance(cursor, float) else f"i{cursor}"


def _cursor(text: str) -> Cursor:
    kind, value = text[:1], text[1:]
    if kind == "":
        return None
    if kind == "i":
        return int(value)
    if kind == "f":
        return float.fromhex(value)
    if kind == "t":
        return value
    raise ValueError(kind)
