"""The schema of a stream: named fields, their dtypes and shapes, and the bytes of one sample.

A sample is one *row* of bytes, the same on the wire, in the stream buffer and (later) in the
log: the fields in the order of their names, each at the next multiple of 16 bytes, the row
padded with zeros to a multiple of 16. So rows can be appended, split, scattered and gathered
with one copy whatever their fields are, and every field is aligned for every dtype.

dtypes are little-endian. bfloat16, which numpy lacks, travels as its 16 bits.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import msgpack
import numpy as np

from insitu.errors import ProducerError

ALIGNMENT_BYTES = 16
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")

#: dtype name on the wire -> the numpy dtype that holds its bits.
DTYPES: dict[str, np.dtype] = {
    name: np.dtype(name).newbyteorder("<")
    for name in (
        "float16", "float32", "float64",
        "int8", "int16", "int32", "int64",
        "uint8", "uint16", "uint32", "uint64",
        "bool", "complex64", "complex128",
    )
} | {"bfloat16": np.dtype("<u2")}  # fmt: skip


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


@dataclass(frozen=True)
class Field:
    """One named tensor of a sample: its dtype (a key of `DTYPES`) and its shape without rows."""

    name: str
    dtype: str
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ProducerError(
                f"field name {self.name!r} is not usable",
                allowed="a letter or _, then up to 63 letters, digits, '_', '.' or '-'",
            )
        if self.dtype not in DTYPES:
            raise ProducerError(
                f"field {self.name!r} has dtype {self.dtype!r}", allowed=", ".join(sorted(DTYPES))
            )
        if any(extent < 1 for extent in self.shape):
            raise ProducerError(
                f"field {self.name!r} has shape {list(self.shape)}",
                allowed="every extent 1 or more",
                consequence="a sample without bytes teaches nothing and is refused",
            )

    @cached_property
    def numpy_dtype(self) -> np.dtype:
        """The numpy dtype that holds its bits."""
        return DTYPES[self.dtype]

    @cached_property
    def size_bytes(self) -> int:
        """Bytes of this field in one sample, without padding."""
        return math.prod(self.shape) * self.numpy_dtype.itemsize


@dataclass(frozen=True)
class Schema:
    """The fields of a stream, ordered by name, and where each lies in a row.

    Example:
        >>> schema = Schema.of({"y": ("int64", ()), "x": ("float32", (3,))})
        >>> [(f.name, o) for f, o in zip(schema.fields, schema.offsets)], schema.row_bytes
        ([('x', 0), ('y', 16)], 32)
    """

    fields: tuple[Field, ...]

    def __post_init__(self) -> None:
        names = [field.name for field in self.fields]
        if not names:
            raise ProducerError("the schema has no field", allowed="1 field or more")
        if len(set(names)) != len(names):
            raise ProducerError(f"the schema names a field twice: {names}")
        object.__setattr__(self, "fields", tuple(sorted(self.fields, key=lambda f: f.name)))

    @classmethod
    def of(cls, fields: Mapping[str, tuple[str, tuple[int, ...]]]) -> Schema:
        return cls(
            tuple(Field(name, dtype, tuple(shape)) for name, (dtype, shape) in fields.items())
        )

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Byte offset of each field in a row."""
        offsets, end = [], 0
        for field in self.fields:
            offsets.append(end)
            end = _aligned(end + field.size_bytes)
        return tuple(offsets)

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of one sample, padding included."""
        return _aligned(self.offsets[-1] + self.fields[-1].size_bytes)

    @cached_property
    def numpy_row(self) -> np.dtype:
        """The structured numpy dtype of one row."""
        return np.dtype(
            {
                "names": [field.name for field in self.fields],
                "formats": [(field.numpy_dtype, field.shape) for field in self.fields],
                "offsets": list(self.offsets),
                "itemsize": self.row_bytes,
            }
        )

    def __getitem__(self, name: str) -> Field:
        for field in self.fields:
            if field.name == name:
                return field
        raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        return any(field.name == name for field in self.fields)

    def as_wire(self) -> list[list[object]]:
        """The form a HELLO carries: [[name, dtype, [extent, ...]], ...] in row order."""
        return [[field.name, field.dtype, list(field.shape)] for field in self.fields]

    @cached_property
    def crc32(self) -> int:
        """CRC-32 of the msgpack bytes of `as_wire()`: the schema's short name."""
        return zlib.crc32(msgpack.packb(self.as_wire()))

    def difference(self, other: Schema) -> str:
        """In words, what `other` (the producer's) has unlike this one; empty when equal."""
        ours = {field.name: field for field in self.fields}
        theirs = {field.name: field for field in other.fields}
        lines = [f"field {name!r} is missing" for name in ours.keys() - theirs.keys()]
        lines += [f"field {name!r} is unknown" for name in theirs.keys() - ours.keys()]
        for name in ours.keys() & theirs.keys():
            mine, yours = ours[name], theirs[name]
            if mine != yours:
                lines.append(
                    f"field {name!r} is {yours.dtype}{list(yours.shape)}, "
                    f"the service takes {mine.dtype}{list(mine.shape)}"
                )
        return "; ".join(sorted(lines))
