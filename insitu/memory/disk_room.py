"""Samples in a file that is mapped into memory, so that there may be more than fit into it.

Slots point to *places* of the file; a sample that takes a slot is written to a free place, never
over the sample that was there. So a checkpoint holds no samples, only the table of places, and
stays true while the run goes on: a place that a state has named is not written to again until
`quarantine_checkpoints` more checkpoints have been made. When no place is free the file grows.

    FILE.rows      one row a place: the fields, each at a multiple of 16 bytes, as in the stream
    FILE.stamps    one number a place: that of the write that filled it

Every write has a number of its own. The state says which number each place had; a place with
another one has been overwritten, and the state is refused, not resumed with wrong samples.

How large the file gets: the capacity, and what is replaced within `quarantine_checkpoints`
checkpoints. Samples that came and went between two checkpoints leave no trace. Space is reserved
when the file grows, so that a full disk is an error here and not a signal in the middle of a step.

What it survives: kill -9 at any moment, since what was written is with the kernel. A power cut may
take what the kernel had not written yet; nothing waits for the disk here.

A run that starts anew starts a new file; files of former runs are left alone, as their checkpoints
need them. Only one process may have a file open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor

from insitu.errors import InternalError, OperatorError
from insitu.memory.arrivals import Arrivals
from insitu.memory.mapped_file import MappedFile
from insitu.memory.places import Places
from insitu.memory.room import Entry, Room, Rows
from insitu.sampling import Indices

_ALIGNMENT_BYTES = 16
_SMALLEST_GROWTH_BYTES = 16 * 2**20
_KEYS = {"identity", "fields", "places", "stamps", "quarantine"}


@dataclass(frozen=True)
class _Files:
    """The open pair."""

    rows: MappedFile
    stamps: MappedFile

    @property
    def places(self) -> int:
        return min(self.rows.count, self.stamps.count)

    def stamps_at(self, places: Indices) -> Indices:
        found: Indices = self.stamps.values[places, 0]
        return found


class DiskRoom(Room):
    """Fields of samples in a file.

    Args:
        directory: where the file is; made when missing.
        quarantine_checkpoints: checkpoints after which a place may be written again: as many as are
            kept, and as may be under way.

    Example:
        >>> import tempfile
        >>> directory = tempfile.TemporaryDirectory()
        >>> room = DiskRoom(4, torch.device("cpu"), Path(directory.name))
        >>> fields = {"x": torch.tensor([5, 6])}
        >>> room.prepare(fields)
        >>> room.write(slice(0, 2), fields, slice(0, 2))
        >>> room.read(np.array([1]))
        {'x': tensor([6])}
        >>> room.close(); directory.cleanup()
    """

    key = "file"

    def __init__(
        self,
        capacity_samples: int,
        device: torch.device,
        directory: Path,
        *,
        quarantine_checkpoints: int = 5,
    ) -> None:
        super().__init__(capacity_samples, device)
        self._directory = directory
        self._open_files: _Files | None = None
        self._arrivals = Arrivals()
        self._identity = ""
        self._offsets: list[int] = []
        self._row_bytes = 0
        self._table = np.zeros(capacity_samples, np.int64)  # slot -> place
        self._length = 0  # slots that were written
        self._next_stamp = 1  # 0 is that of a place that was never written
        self._places = Places(quarantine_checkpoints)

    def count_checkpoints_by(self, written: Callable[[], int]) -> None:
        """Quarantine ends by this count of checkpoints that are on the disk.

        By default every `state_dict` counts as one, which is too many where some are never
        written.
        """
        self._places.count_checkpoints_by(written)

    @property
    def file_bytes(self) -> int:
        """What the file takes now."""
        return self._places.count * self._row_bytes

    def close(self) -> None:
        """Let go of the file; another room may open it."""
        if self._open_files is not None:
            self._settle()
            self._open_files.rows.close()
            self._open_files.stamps.close()
        self._open_files = None

    @property
    def _files(self) -> _Files:
        if self._open_files is None:
            raise InternalError("a memory on disk was used before its first sample, or once closed")
        return self._open_files

    def _make(self, entries: list[Entry]) -> None:
        self._lay_out(entries)
        self._identity = uuid4().hex
        self._directory.mkdir(parents=True, exist_ok=True)
        self._open(create=True)

    def _lay_out(self, entries: list[Entry]) -> None:
        self._offsets, end = [], 0
        for _, dtype, shape in entries:
            self._offsets.append(end)
            end += -(-shape.numel() * dtype.itemsize // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
        self._row_bytes = max(end, _ALIGNMENT_BYTES)

    def _open(self, *, create: bool) -> None:
        stem = self._directory / self._identity
        rows = MappedFile(stem.with_suffix(".rows"), np.uint8, self._row_bytes, create=create)
        stamps = MappedFile(stem.with_suffix(".stamps"), np.int64, 1, create=create)
        self._open_files = _Files(rows, stamps)

    def write(self, slots: Rows, fields: Mapping[str, Tensor], rows: Rows) -> None:
        self._settle()
        if self.device.type == "cuda":
            self._arrivals.send(slots, fields, rows)
        else:
            index = rows if isinstance(rows, slice) else torch.from_numpy(rows)
            self._put(slots, {name: tensor.detach()[index] for name, tensor in fields.items()})

    def _settle(self) -> None:
        for arrival in self._arrivals.arrived():
            self._put(arrival.slots, arrival.fields)

    def _put(self, slots: Rows, fields: Mapping[str, Tensor]) -> None:
        numbers = np.arange(slots.start, slots.stop) if isinstance(slots, slice) else slots
        count = len(numbers)
        places = self._take(count)
        block = np.zeros((count, self._row_bytes), np.uint8)
        for (name, dtype, shape), offset in zip(self.signature, self._offsets, strict=True):
            size = shape.numel() * dtype.itemsize
            flat = fields[name].contiguous().reshape(count, -1).view(torch.uint8)
            block[:, offset : offset + size] = flat.numpy()
        self._files.rows.values[places] = block
        self._files.stamps.values[places, 0] = np.arange(self._next_stamp, self._next_stamp + count)
        self._next_stamp += count
        self._places.free(self._table[numbers[numbers < self._length]])
        self._table[numbers] = places
        self._length = max(self._length, int(numbers.max()) + 1)

    def _take(self, count: int) -> Indices:
        """Places to write to; the file grows when there are too few."""
        missing = count - self._places.available()
        if missing > 0:
            step = max(_SMALLEST_GROWTH_BYTES // self._row_bytes, self._places.count // 4)
            more = max(missing, min(step, self.capacity_samples))
            self._files.rows.grow(self._places.count + more)
            self._files.stamps.grow(self._places.count + more)
            self._places.grow(more)
        return self._places.take(count)

    def read(self, slots: Indices) -> dict[str, Tensor]:
        self._settle()
        block = torch.from_numpy(self._files.rows.values[self._table[slots]])
        if self.device.type == "cuda":
            block = block.pin_memory().to(self.device, non_blocking=True)
        fields = {}
        for (name, dtype, shape), offset in zip(self.signature, self._offsets, strict=True):
            size = shape.numel() * dtype.itemsize
            part = block[:, offset : offset + size].contiguous()
            fields[name] = part.view(dtype).reshape(len(slots), *shape)
        return fields

    def state_dict(self, length: int) -> Any:
        """The table and what makes sure of it, no samples; names all places that are in use."""
        self._settle()
        places = self._table[:length]
        stamps = self._files.stamps_at(places) if length else np.zeros(0, np.int64)
        self._places.named_by_a_state()
        return {
            "identity": self._identity,
            "fields": [
                {"name": name, "dtype": str(dtype).removeprefix("torch."), "shape": list(shape)}
                for name, dtype, shape in self.signature
            ],
            "places": torch.from_numpy(places),
            "stamps": torch.from_numpy(stamps),
            "quarantine": self._places.state_dict(),
        }

    def load_state_dict(self, state: Any, length: int) -> None:
        if set(state) != _KEYS or len(state["places"]) != length:
            raise OperatorError(
                f"the saved memory on disk has {', '.join(sorted(state))} and "
                f"{len(state.get('places', ()))} places for {length} samples",
                allowed=f"{', '.join(sorted(_KEYS))}; as many places as samples",
                consequence="it cannot be resumed",
            )
        entries: list[Entry] = [
            (entry["name"], getattr(torch, entry["dtype"]), torch.Size(entry["shape"]))
            for entry in state["fields"]
        ]
        self._arrivals.clear()
        if not entries:
            self._forget()
            return
        if self._open_files is None or self._identity != state["identity"]:
            self.close()
            self._lay_out(entries)
            self.signature, self._identity = entries, state["identity"]
            self._open(create=False)
        places = state["places"].cpu().numpy()
        self._check(places, state["stamps"].cpu().numpy())
        self._length = length
        self._table[:length] = places
        self._next_stamp = int(self._files.stamps.values.max(initial=0)) + 1
        self._places.load_state_dict(state["quarantine"], self._files.places, places)

    def _forget(self) -> None:
        """As at the start: the state is one of before the first sample."""
        self.close()
        self.signature, self._identity, self._length = [], "", 0
        self._next_stamp = 1
        self._places.clear()

    def _check(self, places: Indices, stamps: Indices) -> None:
        """Whether every place still holds what it held when the state was taken."""
        inside = (places >= 0) & (places < self._files.places)
        same = np.zeros(len(places), np.bool_)
        same[inside] = self._files.stamps_at(places[inside]) == stamps[inside]
        wrong = len(places) - int(same.sum())
        if wrong:
            raise OperatorError(
                f"{self._files.rows.path} does not hold {wrong} of the {len(places)} samples of "
                "the saved memory any more",
                consequence="it cannot be resumed",
                remedy="resume from a newer checkpoint, or put back the file that belongs to it",
            )
