"""The audit of what was drawn: a sum over rows that does not depend on their order.

A row of the stream is known by the number of its record in the stream log and its place in that
record. Each gets a 64-bit number by a mixing function, and the audit of many rows is the sum of
their numbers modulo 2^64, with their count. Drawing a row twice, or not at all, or another in its
place changes the sum; in which order rows were drawn does not. So the audit in a checkpoint can
be compared with the log, whatever policy drew the rows.

The mixing function is the output function of SplitMix64 (G. L. Steele, D. Lea, C. H. Flood,
"Fast splittable pseudorandom number generators", OOPSLA 2014), applied to
`record * 2^32 + row` as its state. It finds accidents, it is no defence against a forger.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_MODULUS = 1 << 64


def row_numbers(
    records: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint64]:
    """The mixed number of each row.

    Args:
        records: (n,) number of the record in the log; distinct up to 2^32 - 1, then modulo that.
        rows: (n,) place of the row in its record, 0 to 2^32 - 1.
    """
    mixed = records.astype(np.uint64)
    mixed <<= np.uint64(32)
    mixed += rows.astype(np.uint64)
    mixed += _GAMMA
    mixed ^= mixed >> np.uint64(30)
    mixed *= _FIRST
    mixed ^= mixed >> np.uint64(27)
    mixed *= _SECOND
    mixed ^= mixed >> np.uint64(31)
    return mixed


def row_sum(records: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> int:
    """The sum modulo 2^64 of `splitmix64(record * 2^32 + row)` over all rows, exactly.

    Args:
        records: (n,) number of the record in the log that each row came with.
        rows: (n,) place of the row in its record.

    Example:
        >>> one, two = row_sum(np.array([7]), np.array([0])), row_sum(np.array([7]), np.array([1]))
        >>> row_sum(np.array([7, 7]), np.array([1, 0])) == added(one, two)
        True
    """
    return int(row_numbers(records, rows).sum(dtype=np.uint64))


def added(total: int, more: int) -> int:
    """The audit of two sets of rows together."""
    return (total + more) % _MODULUS


def removed(total: int, less: int) -> int:
    """The audit of a set of rows without those of a part of it."""
    return (total - less) % _MODULUS
