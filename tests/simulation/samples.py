"""Rows that say who they are: every row's bytes encode its life, its number, and its quality."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from insitu.schema import Schema
from insitu.wire.batches import Span
from insitu_service.ingest.door import Door

#: `id`: life of a producer, row, and a word that depends on both; `y`: 255 is out of range
SCHEMA = Schema.of({"id": ("int64", (3,)), "y": ("uint8", ())})
ROW_BYTES = SCHEMA.row_bytes
_POISON = 255

Rows = npt.NDArray[np.int64]


def door() -> Door:
    return Door(SCHEMA, {"y": (0, 100)})


def is_poisoned(life: int, rows: Rows | int) -> Any:
    """Which rows the door must quarantine: about one of 23."""
    return (rows * 31 + life * 7) % 23 == 11


def write(spans: list[Span], life: int, first_row: int, *, poisons: bool) -> None:
    """Fill reserved rows with the rows from `first_row` on."""
    row = first_row
    for span in spans:
        rows = np.arange(row, row + span.rows)
        ids, quality = span.slab.fields
        place = slice(span.start, span.start + span.rows)
        ids[place, 0] = life
        ids[place, 1] = rows
        ids[place, 2] = _word(life, rows)
        quality[place] = np.where(is_poisoned(life, rows), _POISON, rows % 100) if poisons else 7
        row += span.rows


def read(ids: Rows) -> list[tuple[int, int]]:
    """(life, row) of each row; an AssertionError names one whose bytes are not its own."""
    wrong = ids[:, 2] != _word(ids[:, 0], ids[:, 1])
    assert not wrong.any(), f"a row's bytes are not its own: {ids[wrong][0].tolist()}"
    lives, rows = ids[:, 0].tolist(), ids[:, 1].tolist()
    return list(zip(lives, rows, strict=True))


def _word(life: Rows | int, rows: Rows) -> Rows:
    word: Rows = (rows + 1) * 0x9E3779B1 ^ (np.asarray(life) + 1) * 0x85EBCA77
    return word
