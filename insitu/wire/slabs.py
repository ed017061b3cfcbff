"""The memory of a send window: slabs of rows that are filled once, sent, and used again.

Page faults, not copies, are what sending costs, so slabs are allocated as the window first
grows and then recycled, the last one freed first because it is still in the cache. A slab is
filled from its start to its end; batches are ranges of it, and it is free again when the last
of them has been let go. Slabs begin as zeros and rows always lie at the same places in them, so
the padding between fields is never written and stays zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from insitu.schema import Schema

#: The size of a merged payload, and of a fragment: the best throughput over tcp.
MERGED_BYTES = 1 << 20


class Slab:
    """`rows` rows of zeros: their bytes, and one strided view (rows, *shape) a field."""

    __slots__ = ("fields", "memory", "row_bytes", "rows", "used_rows", "users")

    def __init__(self, schema: Schema, rows: int) -> None:
        memory = np.zeros(rows * schema.row_bytes, np.uint8)
        self.memory = memory.data
        self.row_bytes = schema.row_bytes
        self.rows = rows
        self.used_rows = 0
        self.users = 0
        self.fields: list[NDArray[Any]] = [
            memory.view(schema.numpy_row)[field.name] for field in schema.fields
        ]

    def bytes_of(self, start: int, rows: int) -> memoryview:
        """The bytes of `rows` rows from row `start` on."""
        return self.memory[start * self.row_bytes : (start + rows) * self.row_bytes]


class SlabPool:
    """At most `slabs` slabs of equal size for rows of one schema."""

    def __init__(self, schema: Schema, window_bytes: int, max_rows: int) -> None:
        slab_bytes = max(schema.row_bytes, min(MERGED_BYTES, window_bytes // 4))
        self._schema = schema
        self.slab_rows = max(1, min(max_rows, slab_bytes // schema.row_bytes))
        self.slabs = max(2, window_bytes // (self.slab_rows * schema.row_bytes))
        self._free: list[Slab] = []
        self._made = 0

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
        return Slab(self._schema, self.slab_rows)

    def give_back(self, slab: Slab) -> None:
        slab.used_rows = 0
        self._free.append(slab)
