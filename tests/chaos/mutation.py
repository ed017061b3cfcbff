"""Seeded damage to bytes and to messages: the fuzzing that needs no tool.

`mutated_bytes` knows nothing of what it damages; `mutated_frames` also opens a header and puts
wrong values into its array, so that damage reaches what lies behind the parser.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import msgpack

Damage = Callable[[random.Random, bytearray], None]

#: values that are just right, just wrong, or of another type
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, 2, -1, 7, 255, 65_536, 65_537, 2**31, 2**32, 2**48, 2**63 - 1, 2**63,
    2**64 - 1, -(2**63), 0.0, -0.0, 1.5, -1.5, float("nan"), float("inf"), float("-inf"), 1e308,
    "", "x", "\0", "\N{SNOWMAN}", "a" * 129, "a" * 5000, b"", b"\0", b"\xff" * 8, b"\0" * 64, [],
    [[]], [0], [[0], [1]], [[], []], {}, {"a": 1}, {1: 2}, "xxh3", "crc32", "received", "schema",
    [["x", "float32", [2]]], [["x", "float32", [2**40, 2**40]]], [["", "int8", []]], [None] * 20,
)  # fmt: skip
_BYTES = (0x00, 0x01, 0x7F, 0x80, 0x90, 0x91, 0x9F, 0xC0, 0xC1, 0xC6, 0xD9, 0xDB, 0xDD, 0xDF, 0xFF)


def _flip(source: random.Random, data: bytearray) -> None:
    if data:
        data[int(source.random() * len(data))] ^= 1 << int(source.random() * 8)


def _put(source: random.Random, data: bytearray) -> None:
    if data:
        data[int(source.random() * len(data))] = _BYTES[int(source.random() * len(_BYTES))]


def _cut(source: random.Random, data: bytearray) -> None:
    del data[int(source.random() * (len(data) + 1)) :]


def _remove(source: random.Random, data: bytearray) -> None:
    start = int(source.random() * (len(data) + 1))
    del data[start : start + 1 + int(source.random() * 8)]


def _insert(source: random.Random, data: bytearray) -> None:
    start = int(source.random() * (len(data) + 1))
    data[start:start] = source.randbytes(1 + int(source.random() * 8))


def _repeat(source: random.Random, data: bytearray) -> None:
    start = int(source.random() * (len(data) + 1))
    data[start:start] = data[start : start + 1 + int(source.random() * 32)]


_DAMAGES: tuple[Damage, ...] = (_flip, _put, _cut, _remove, _insert, _repeat)


def mutated_bytes(source: random.Random, data: bytes) -> bytes:
    """The same with 1 to 4 damages: bits, bytes, pieces lost, put in or doubled.

    Example:
        >>> mutated_bytes(random.Random(0), b"whole") != b"whole"
        True
    """
    damaged = bytearray(data)
    for _ in range(1 + int(source.random() * 4)):
        _DAMAGES[int(source.random() * len(_DAMAGES))](source, damaged)
    return bytes(damaged)


def mutated_frames(source: random.Random, frames: Sequence[bytes]) -> list[bytes]:
    """A message with something wrong in its header's values, its bytes, or its frames."""
    kind, damaged = source.random(), list(frames)
    if kind < 0.5:
        damaged[0] = _wrong_values(source, damaged[0])
    elif kind < 0.9:
        which = 0 if source.random() < 0.8 else len(damaged) - 1
        damaged[which] = mutated_bytes(source, damaged[which])
    elif kind < 0.95:
        damaged.append(damaged[0] if source.random() < 0.5 else b"")
    else:
        damaged.pop()
    return damaged


def _wrong_values(source: random.Random, header: bytes) -> bytes:
    """The header's array with one or two elements replaced, put in or taken out."""
    values = msgpack.unpackb(header)
    for _ in range(1 + int(source.random() * 2)):
        place, how = int(source.random() * (len(values) + 1)), source.random()
        value = VALUES[int(source.random() * len(VALUES))]
        if how < 0.8 and place < len(values):
            values[place] = value
        elif how < 0.9:
            values.insert(place, value)
        else:
            del values[place : place + 1]
    packed: bytes = msgpack.packb(values)
    return packed
