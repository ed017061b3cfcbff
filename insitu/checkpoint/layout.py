"""Where every tensor lies in a safetensors file.

The format (github.com/huggingface/safetensors): 8 bytes little-endian length, a JSON header of
that length, then the tensors' bytes, C order, without holes. We put wide items first, so that
without holes every tensor is still aligned to its item size, and pad the header with spaces so
that the data begins at a multiple of 64 bytes in a memory-mapped file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from insitu.errors import OperatorError

HEADER_ALIGNMENT_BYTES = 64

#: torch dtype -> its name in a safetensors header. Complex ones travel as real pairs.
DTYPE_NAMES: dict[torch.dtype, str] = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8",
    torch.bool: "BOOL",
}  # fmt: skip

Signature = tuple[tuple[str, torch.dtype, tuple[int, ...]], ...]


def signature(tensors: Mapping[str, Tensor]) -> Signature:
    """What decides a layout: names, dtypes and shapes, in order."""
    return tuple((name, t.dtype, tuple(t.shape)) for name, t in tensors.items())


@dataclass(frozen=True)
class Place:
    """One tensor's place: bytes `[begin, end)` of the data section."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int

    def view(self, data: Tensor) -> Tensor:
        """The tensor as a view of the data section, a 1-D uint8 tensor."""
        return data[self.begin : self.end].view(self.dtype).view(self.shape)


@dataclass(frozen=True)
class Layout:
    """The places of all tensors, in the order of the file.

    Example:
        >>> layout = Layout.of({"a": torch.zeros(3, dtype=torch.uint8), "b": torch.zeros(2)})
        >>> [(p.name, p.begin, p.end) for p in layout.places], layout.size_bytes
        ([('b', 0, 8), ('a', 8, 11)], 11)
    """

    places: tuple[Place, ...]

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Layout:
        return cls(tuple(_placed(signature(tensors))))

    @property
    def size_bytes(self) -> int:
        """Bytes of the data section."""
        return self.places[-1].end if self.places else 0

    @cached_property
    def header(self) -> bytes:
        """The file's first bytes: the length, the JSON and its padding."""
        table = {
            place.name: {
                "dtype": DTYPE_NAMES[place.dtype],
                "shape": list(place.shape),
                "data_offsets": [place.begin, place.end],
            }
            for place in self.places
        }
        text = json.dumps(table, separators=(",", ":")).encode()
        padded = -(-(8 + len(text)) // HEADER_ALIGNMENT_BYTES) * HEADER_ALIGNMENT_BYTES - 8
        return padded.to_bytes(8, "little") + text.ljust(padded)


def _placed(entries: Signature) -> Iterable[Place]:
    for name, dtype, _ in entries:
        if dtype not in DTYPE_NAMES:
            raise OperatorError(
                f"the state holds a tensor of {dtype} at {name!r}",
                allowed=", ".join(str(known).removeprefix("torch.") for known in DTYPE_NAMES),
                consequence="no checkpoint is written",
            )
    end = 0
    for name, dtype, shape in sorted(entries, key=lambda entry: -entry[1].itemsize):
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        yield Place(name, dtype, shape, begin, end)
