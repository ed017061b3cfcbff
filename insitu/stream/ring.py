"""The ring: one preallocated block of rows, and reservations that are filled byte by byte."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from insitu.batch import Column
from insitu.errors import InternalError
from insitu.sampling import Indices
from insitu.schema import Schema
from insitu.stream.blocks import typed_views

Bytes = npt.NDArray[np.uint8]

#: beyond this many runs of neighbouring slots, rows are scattered by one indexed copy
_MOST_RUNS = 8

#: from so many bytes on torch's threads share a copy; below, numpy is faster by itself
_SHARED_COPY_BYTES = 4 * 2**20


class Ring:
    """`capacity_samples` rows of bytes and their provenance, allocated and touched at once.

    A fresh page costs several times the copy into it, so no page is fresh when data arrives.

    Args:
        pin_memory: lock the pages, for asynchronous copies to a CUDA device.
    """

    def __init__(self, schema: Schema, capacity_samples: int, *, pin_memory: bool = False) -> None:
        self.schema = schema
        self.rows = torch.empty(
            (capacity_samples, schema.row_bytes), dtype=torch.uint8, pin_memory=pin_memory
        ).zero_()
        self.provenance = torch.zeros((capacity_samples, len(Column)), dtype=torch.int64)
        self.bytes: Bytes = self.rows.numpy()
        self.flat: Bytes = self.bytes.reshape(-1)
        self.records = self.flat.view(schema.numpy_row)
        self.columns: npt.NDArray[np.int64] = self.provenance.numpy()
        self._saved = torch.empty((0, schema.row_bytes), dtype=torch.uint8)
        #: of each slot the record that brought it, and its row in that
        self.places: npt.NDArray[np.int64] = np.zeros((capacity_samples, 2), np.int64)

    def save(self, slots: Indices) -> dict[str, Tensor]:
        """A copy of some slots, in memory that the next call writes to.

        That memory was touched before: fresh pages cost several times the copy.
        """
        index = torch.from_numpy(slots)
        if len(slots) > len(self._saved):
            self._saved = torch.empty((len(slots), self.schema.row_bytes), dtype=torch.uint8)
        return {
            "rows": torch.index_select(self.rows, 0, index, out=self._saved[: len(slots)]),
            "provenance": self.provenance.index_select(0, index),
            "places": torch.from_numpy(self.places.take(slots, 0)),
        }

    def load(self, saved: Mapping[str, Tensor]) -> None:
        """Put what was saved into the first slots."""
        count = len(saved["rows"])
        self.rows[:count] = saved["rows"]
        self.provenance[:count] = saved["provenance"]
        self.places[:count] = saved["places"].numpy()

    def gather(self, slots: Indices, out: Bytes) -> Tensor:
        """Copy the rows of some slots to `out`, (len(slots), row_bytes); gives their provenance.

        Lets other threads run while it copies.
        """
        if out.nbytes < _SHARED_COPY_BYTES:
            # to clip slots, none of which is out of range, spares numpy a copy of its own
            self.bytes.take(slots, 0, out, "clip")
        else:
            torch.index_select(self.rows, 0, torch.from_numpy(slots), out=torch.from_numpy(out))
        return torch.from_numpy(self.columns.take(slots, 0))


class Reservation:
    """Slots for one batch, whose bytes come in fragments, in any order and of any cut.

    Args:
        ring: the ring that the slots lie in.
        slots: the slot of each row.

    Attributes:
        xxh3: of all its bytes, where whoever wrote them knew it; None where it is not known.
    """

    __slots__ = (
        "_gathered", "_ring", "_row_bytes", "_runs", "open", "rows", "slots", "start", "xxh3",
    )  # fmt: skip

    def __init__(self, ring: Ring, slots: Indices) -> None:
        self._ring = ring
        self._row_bytes = ring.schema.row_bytes
        self._gathered: npt.NDArray[Any] | None = None
        self.slots = slots
        self.rows = len(slots)
        first = int(slots[0])
        #: first slot of rows that are neighbours in the ring; -1 when they are scattered
        self.start = first
        self._runs: list[tuple[int, int, int]] | None = None
        if self.rows > 1 and not _are_neighbours(slots):
            self.start = -1
            self._runs = _runs(slots)
        self.open = True
        self.xxh3: int | None = None

    @property
    def size_bytes(self) -> int:
        return self.rows * self._row_bytes

    def write(
        self,
        offset_bytes: int,
        data: bytes | bytearray | memoryview | Bytes,
        *,
        xxh3: int | None = None,
    ) -> None:
        """Copy `data` to bytes `[offset_bytes, offset_bytes + len(data))` of the batch.

        Lets other threads run while it copies. The caller may reuse `data` afterwards.

        Args:
            xxh3: of `data`, if it is known.
        """
        source = np.frombuffer(data, np.uint8)
        end = offset_bytes + len(source)
        if not self.open or offset_bytes < 0 or end > self.rows * self._row_bytes:
            raise InternalError(
                f"bytes {offset_bytes} to {end} written to a reservation",
                allowed=f"an open one, 0 to {self.size_bytes}",
            )
        self.xxh3 = xxh3 if len(source) == self.rows * self._row_bytes else None
        if self.start >= 0:
            base = self.start * self._row_bytes + offset_bytes
            self._ring.flat[base : base + len(source)] = source
        elif self._runs is not None:
            self._write_runs(self._runs, offset_bytes, source)
        else:
            self._write_scattered(offset_bytes, source)

    def views(self) -> Mapping[str, npt.NDArray[Any]]:
        """The batch by field, (rows, *shape) each, for validation.

        Views of the ring, or copies where the rows are scattered; whoever changes values calls
        `write_back` afterwards. bfloat16 comes as its bits, uint16.
        """
        if self.start >= 0:
            records = self._ring.records[self.start : self.start + self.rows]
        else:
            if self._gathered is None:
                gathered = self._ring.bytes.take(self.slots, axis=0)
                self._gathered = gathered.reshape(-1).view(self._ring.schema.numpy_row)
            records = self._gathered
        return {field.name: records[field.name] for field in self._ring.schema.fields}

    def write_back(self) -> None:
        """Let changes to `views()` reach the ring."""
        self.xxh3 = None
        if self._gathered is not None:
            rows = self._gathered.view(np.uint8).reshape(self.rows, self._row_bytes)
            self._ring.bytes[self.slots] = rows

    def lies_in(self, ring: Ring) -> bool:
        return self._ring is ring

    def pieces(self) -> list[Bytes]:
        """The bytes of the batch in order: views of the ring, or a copy of scattered rows."""
        if self.start >= 0:
            base = self.start * self._row_bytes
            return [self._ring.flat[base : base + self.size_bytes]]
        if self._runs is None:
            return [self._ring.bytes.take(self.slots, axis=0).reshape(-1)]
        width = self._row_bytes
        return [
            self._ring.flat[slot * width : (slot + rows) * width] for slot, _, rows in self._runs
        ]

    def copied(self, keep: npt.NDArray[np.bool_] | None = None) -> dict[str, Tensor]:
        """The batch by field as tensors of their own; of the rows in `keep` only, where given."""
        slots = self.slots if keep is None else self.slots[keep]
        block = self._ring.rows.index_select(0, torch.from_numpy(slots))
        return typed_views(self._ring.schema, block)

    def publish(self, columns: npt.NDArray[np.int64], record: int) -> None:
        """Write the provenance of the rows, (rows, len(Column)), and take no more bytes."""
        self.open = False
        self._ring.places[self.slots, 0] = record
        self._ring.places[self.slots, 1] = np.arange(self.rows)
        if self.start >= 0:
            self._ring.columns[self.start : self.start + self.rows] = columns
        else:
            self._ring.columns[self.slots] = columns

    def _write_runs(self, runs: list[tuple[int, int, int]], offset: int, source: Bytes) -> None:
        """One copy for each run of neighbouring slots that the bytes touch."""
        end = offset + len(source)
        for first_slot, first_row, rows in runs:
            run_offset = first_row * self._row_bytes
            low = max(offset, run_offset)
            high = min(end, run_offset + rows * self._row_bytes)
            if low < high:
                base = first_slot * self._row_bytes - run_offset
                self._ring.flat[base + low : base + high] = source[low - offset : high - offset]

    def _write_scattered(self, offset: int, source: Bytes) -> None:
        """The rest of a begun row, whole rows at once, the beginning of a last row."""
        width = self._row_bytes
        row, within = divmod(offset, width)
        head = min(width - within, len(source)) if within else 0
        if head:
            self._ring.bytes[self.slots[row], within : within + head] = source[:head]
            row += 1
        whole = (len(source) - head) // width
        if whole:
            body = source[head : head + whole * width].reshape(whole, width)
            self._ring.bytes[self.slots[row : row + whole]] = body
        tail = head + whole * width
        if tail < len(source):
            self._ring.bytes[self.slots[row + whole], : len(source) - tail] = source[tail:]


def _are_neighbours(slots: Indices) -> bool:
    return int(slots[-1] - slots[0]) == len(slots) - 1 and bool((np.diff(slots) == 1).all())


def _runs(slots: Indices) -> list[tuple[int, int, int]] | None:
    """(first slot, first row, rows) of each run of neighbours; None when there are too many."""
    breaks = np.flatnonzero(np.diff(slots) != 1) + 1
    if len(breaks) >= _MOST_RUNS:
        return None
    starts = [0, *breaks.tolist(), len(slots)]
    return [(int(slots[a]), a, b - a) for a, b in pairwise(starts)]
