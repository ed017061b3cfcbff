"""Preallocated blocks that training batches are gathered into, in turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from insitu.errors import InternalError
from insitu.schema import Schema


def typed_views(schema: Schema, block: Tensor) -> dict[str, Tensor]:
    """The fields of a (rows, row_bytes) uint8 block: strided views (rows, *shape), no copy."""
    rows = len(block)
    views = {}
    for field, offset in zip(schema.fields, schema.offsets, strict=True):
        column = block[:, offset : offset + field.size_bytes]
        views[field.name] = column.view(getattr(torch, field.dtype)).view(rows, *field.shape)
    return views


class Block:
    """Room for one batch.

    Attributes:
        rows: (rows, row_bytes) uint8; `bytes` is the same memory.
        fields: typed views of it.
        copied: an event after which the device has read the block; None when it has nothing to.
    """

    def __init__(self, schema: Schema, rows: int, *, pin_memory: bool) -> None:
        self.rows = torch.empty(
            (rows, schema.row_bytes), dtype=torch.uint8, pin_memory=pin_memory
        ).zero_()
        self.bytes: npt.NDArray[np.uint8] = self.rows.numpy()
        self.fields: Mapping[str, Tensor] = typed_views(schema, self.rows)
        self.copied: torch.cuda.Event | None = None

    def first(self, rows: int) -> Mapping[str, Tensor]:
        """The fields of the first `rows` rows."""
        if rows == len(self.bytes):
            return self.fields
        return {name: view[:rows] for name, view in self.fields.items()}


class Blocks:
    """A few blocks, lent in turn, so that one can still be read while the next is filled."""

    def __init__(self, schema: Schema, count: int, *, pin_memory: bool) -> None:
        self._schema = schema
        self._count = count
        self._pin_memory = pin_memory
        self._rows = 0
        self._free: deque[Block] = deque()

    def lend(self, rows: int) -> Block:
        """A block for at least `rows` rows that nobody reads any more."""
        if rows > self._rows:
            self._rows = rows
            self._free.clear()
            for _ in range(self._count):
                self._free.append(Block(self._schema, rows, pin_memory=self._pin_memory))
        if not self._free:
            raise InternalError(
                f"{self._count} draws are out and none was released",
                remedy="call StreamBuffer.release(draw) once the batch is no longer read",
            )
        block = self._free.popleft()
        if block.copied is not None:
            block.copied.synchronize()
            block.copied = None
        return block

    def give_back(self, block: Block) -> None:
        if len(block.bytes) == self._rows:  # smaller ones are of the past
            self._free.append(block)

    def give_back_unused(self, block: Block) -> None:
        """The same block comes next, so that the others keep their batches longer."""
        self._free.appendleft(block)
