"""Arrays to rows of bytes and back, and the schema that arrays imply.

An array here is a numpy array whose first axis is rows. bfloat16, which numpy lacks, is the
uint16 array of its bits beside the dtype name `bfloat16`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from insitu.errors import ProducerError
from insitu.schema import Schema

Array = NDArray[Any]


def infer_schema(arrays: Mapping[str, tuple[str, Array]]) -> Schema:
    """The schema of {name: (dtype name, array)}; the first axis of every array is rows.

    Example:
        >>> infer_schema({"x": ("float32", np.zeros((8, 3), np.float32))})["x"].shape
        (3,)
    """
    return Schema.of({name: (dtype, array.shape[1:]) for name, (dtype, array) in arrays.items()})


def pack_rows(schema: Schema, arrays: Mapping[str, Array], out: Array) -> None:
    """Write arrays as rows.

    Args:
        schema: where the fields lie.
        arrays: name -> (rows, *shape), any strides and byte order; not changed.
        out: (rows * row_bytes,) uint8, written in full, padding included.

    Example:
        >>> schema = Schema.of({"x": ("uint8", (2,)), "y": ("int64", ())})
        >>> out = np.empty(32, np.uint8)
        >>> pack_rows(schema, {"x": np.array([[1, 2]]), "y": np.array([3])}, out)
        >>> bytes(out[:3]), int(out[16])
        (b'\\x01\\x02\\x00', 3)
    """
    out[:] = 0
    rows = out.view(schema.numpy_row)
    for field in schema.fields:
        rows[field.name] = arrays[field.name]


def unpack_rows(schema: Schema, data: bytes | bytearray | memoryview) -> dict[str, Array]:
    """The fields of some rows: strided views of `data`, name -> (rows, *shape)."""
    if len(data) % schema.row_bytes:
        raise ProducerError(
            f"{len(data)} bytes are no whole number of rows", allowed=f"rows of {schema.row_bytes}"
        )
    rows = np.frombuffer(data, schema.numpy_row)
    return {field.name: rows[field.name] for field in schema.fields}
