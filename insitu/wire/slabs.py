"""The memory of a send window: slabs of rows that are filled once, sent, and used again.

Page faults, not copies, are what sending costs, so slabs are allocated as the window first
grows and then recycled, the last one freed first because it is still in the cache. A slab is
filled from its start to its end; batches are ranges of it, and it is free again when the last
of them has been let go. Slabs begin as zeros and rows always lie at the same places in them, so
the padding between fields is never written and stays zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from insitu.schema import Schema

#: The size of a merged payload, and of a fragment: the best throughput over tcp.
MERGED_BYTES = 1 << 20

#: (number of the slab, bytes) -> that many zeros, or what the slab held before a restart
SlabMemory = Callable[[int, int], NDArray[np.uint8]]


def fresh_memory(number: int, size_bytes: int) -> NDArray[np.uint8]:
    """Memory of this process."""
    return np.zeros(size_bytes, np.uint8)


class Slab:
    """`rows` rows of zeros: their bytes, and one strided view (rows, *shape) a field."""

    __slots__ = ("fields", "memory", "number", "row_bytes", "rows", "used_rows", "users")

    def __init__(
        self, schema: Schema, rows: int, number: int = 0, memory: SlabMemory = fresh_memory
    ) -> None:
        bytes_ = memory(number, rows * schema.row_bytes)
        self.number = number
        self.memory = bytes_.data
        self.row_bytes = schema.row_bytes
        self.rows = rows
        self.used_rows = 0
        self.users = 0
        self.fields: list[NDArray[Any]] = [
            bytes_.view(schema.numpy_row)[field.name] for field in schema.fields
        ]

    def bytes_of(self, start: int, rows: int) -> memoryview:
        """The bytes of `rows` rows from row `start` on."""
        return self.memory[start * self.row_bytes : (start + rows) * self.row_bytes]


class SlabPool:
    """At most `slabs` slabs of `slab_rows` rows of one schema; made as needed, then kept."""

    def __init__(
        self, schema: Schema, slab_rows: int, slabs: int, memory: SlabMemory = fresh_memory
    ) -> None:
        self.slab_rows = slab_rows
        self.slabs = slabs
        self._schema = schema
        self._memory = memory
        self._free: list[Slab] = []
        self._made = 0

    @classmethod
    def sized(
        cls,
        schema: Schema,
        window_bytes: int,
        max_rows: int,
        memory: SlabMemory = fresh_memory,
    ) -> Self:
        """As many slabs as fit, each of a size that sends well."""
        slab_bytes = max(schema.row_bytes, min(MERGED_BYTES, window_bytes // 4))
        slab_rows = max(1, min(max_rows, slab_bytes // schema.row_bytes))
        slabs = max(2, window_bytes // (slab_rows * schema.row_bytes))
        return cls(schema, slab_rows, slabs, memory)

    @property
    def capacity_rows(self) -> int:
        return self.slabs * self.slab_rows

    @property
    def free_slabs(self) -> int:
        return self.slabs - self._made + len(self._free)

    @property
    def used_ratio(self) -> float:
        """Slabs in use, 0 to 1."""
        return 1.0 - self.free_slabs / self.slabs

    def take(self) -> Slab:
        """An empty slab; only when `free_slabs` is not 0."""
        if self._free:
            return self._free.pop()
        assert self._made < self.slabs
        self._made += 1
        return Slab(self._schema, self.slab_rows, self._made - 1, self._memory)

    def give_back(self, slab: Slab) -> None:
        slab.used_rows = 0
        self._free.append(slab)

    def adopt(self) -> list[Slab]:
        """All slabs, with what they held before a restart; `settle` tells which are free."""
        made = range(self._made, self.slabs)
        slabs = [Slab(self._schema, self.slab_rows, number, self._memory) for number in made]
        self._made = self.slabs
        return slabs

    def settle(self, slabs: list[Slab]) -> None:
        """Of adopted slabs, those without users are free, the others are full."""
        self._free = [slab for slab in slabs if not slab.users]
        for slab in slabs:
            slab.used_rows = slab.rows if slab.users else 0
