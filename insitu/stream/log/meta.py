"""The meta of a record: a batch's stamp and which rows passed the door, in msgpack.

    [producer_id, epoch, seq, cursor, first_row, produced_at_ns, task, sample_ids, flags, keep]

`produced_at_ns` and `flags` are one number for all rows, or 8 bytes (int64, little-endian) a row;
`sample_ids` nil or 8 bytes a row; `keep` nil or one bit a row, the lowest first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt

from insitu.errors import InternalError, ProducerError
from insitu.stream.stamp import PerRow, Stamp

Mask = npt.NDArray[np.bool_]
_WORD = 1 << 63
_CURSORS = (int, float, str, type(None))


def pack_meta(stamp: Stamp, rows: int, keep: Mask | None) -> bytes:
    """The bytes of a stamp and a mask of (rows,).

    Raises:
        ProducerError: times, ids or flags are not one number of 64 bits for each row.
    """
    if keep is not None and keep.shape != (rows,):
        raise InternalError(f"a mask of shape {keep.shape} for {rows} rows")
    packed: bytes = msgpack.packb(
        [
            stamp.producer_id, stamp.epoch, stamp.seq, stamp.cursor, stamp.first_row,
            _pack_per_row(stamp.produced_at_ns, rows), stamp.task,
            None if stamp.sample_ids is None else _pack_array(stamp.sample_ids, rows),
            _pack_per_row(stamp.flags, rows),
            None if keep is None else np.packbits(keep, bitorder="little").tobytes(),
        ]
    )  # fmt: skip
    return packed


def unpack_meta(meta: memoryview, rows: int) -> tuple[Stamp, Mask | None]:
    """What `pack_meta` packed.

    Raises:
        ValueError, TypeError, msgpack.UnpackException: these are other bytes.
    """
    name, epoch, seq, cursor, first_row, produced, task, ids, flags, keep = msgpack.unpackb(meta)
    texts_fit = type(name) is str and type(task) is str
    numbers_fit = type(epoch) is int and type(seq) is int and type(first_row) is int
    if not (texts_fit and numbers_fit and isinstance(cursor, _CURSORS)):
        raise ValueError("its stamp is none")
    if not (type(produced) is int and produced < _WORD):
        produced = _unpack_per_row(produced, rows)
    if not (type(flags) is int and flags < _WORD):
        flags = _unpack_per_row(flags, rows)
    ids = None if ids is None else _unpack_array(ids, rows)
    stamp = Stamp(name, epoch, seq, cursor, first_row, produced, task, ids, flags)
    if keep is None:
        return stamp, None
    bits = np.unpackbits(np.frombuffer(keep, np.uint8), count=rows, bitorder="little")
    if len(keep) != -(-rows // 8):
        raise ValueError(f"a mask of {len(keep)} bytes for {rows} rows")
    return stamp, bits.view(np.bool_)


def _pack_per_row(values: PerRow, rows: int) -> int | bytes:
    if not isinstance(values, int):
        return _pack_array(values, rows)
    if not -_WORD <= values < _WORD:
        raise ProducerError(f"a time or flag of a batch is {values}", allowed="64 bits")
    return int(values)


def _pack_array(values: Sequence[int] | npt.NDArray[np.int64], rows: int) -> bytes:
    try:
        numbers = np.asarray(values, "<i8")
    except (ValueError, OverflowError, TypeError) as error:
        raise ProducerError(f"times, sample ids or flags of a batch: {error}") from None
    if numbers.shape != (rows,):
        raise ProducerError(
            f"times, sample ids or flags of shape {numbers.shape} for {rows} rows",
            allowed="one number for each row",
            consequence="the batch is refused",
        )
    return numbers.tobytes()


def _unpack_per_row(value: Any, rows: int) -> PerRow:
    if not isinstance(value, int):
        return _unpack_array(value, rows)
    if value >= _WORD:
        raise ValueError(f"{value} is not a number of 64 bits")
    return value


def _unpack_array(value: Any, rows: int) -> npt.NDArray[np.int64]:
    array = np.frombuffer(value, "<i8")
    if len(array) != rows:
        raise ValueError(f"{len(array)} numbers for {rows} rows")
    return array
