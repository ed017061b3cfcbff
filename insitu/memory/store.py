"""Preallocated room for samples: one tensor a field, and what is known of every sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from insitu.batch import Batch, Column
from insitu.errors import InternalError, OperatorError
from insitu.sampling import Indices

#: some rows: their numbers, or neighbours
Rows = Indices | slice

#: name of a field, dtype, shape of one sample
_Entry = tuple[str, torch.dtype, torch.Size]

#: torch selects rows of every dtype but these, and numpy has no bfloat16; a view of the same
#: bits is as good
_SIGNED = {
    torch.uint16: torch.int16,
    torch.uint32: torch.int32,
    torch.uint64: torch.int64,
    torch.bfloat16: torch.int16,
}


class SampleStore:
    """Slots `[0, capacity)` with samples in them, on one device.

    Field tensors are made at the first write, with the dtype and shape of what is written, and
    their pages are touched at once. Data stays on the device; slots, provenance and counters
    live on the CPU, so nothing here waits for the device.

    Args:
        capacity_samples: slots.
        device: of the field tensors and losses.
    """

    def __init__(self, capacity_samples: int, device: torch.device) -> None:
        if capacity_samples < 1:
            raise OperatorError(f"a memory of {capacity_samples} samples", allowed="1 or more")
        self.capacity_samples = capacity_samples
        self.device = device
        self.fields: dict[str, Tensor] = {}
        self._bits: dict[str, Tensor] = {}  # the same memory as dtypes that can be selected from
        self._signature: list[_Entry] = []
        self.provenance = torch.zeros(capacity_samples, len(Column), dtype=torch.int64)
        self.times_replayed = torch.zeros(capacity_samples, dtype=torch.int64)
        #: loss per sample when it was last seen, NaN when it was not told
        self.last_loss = torch.full((capacity_samples,), torch.nan, device=device)
        # the same memory once more: on few rows numpy takes half the time of torch
        self._columns = self.provenance.numpy()
        self._times_replayed = self.times_replayed.numpy()

    def write(self, slots: Rows, batch: Batch, rows: Rows, losses: Tensor | None) -> None:
        """Put rows of a batch into slots, all different; what was there is forgotten.

        A slice of neighbours is copied faster than as many numbers.
        """
        if not self.fields:
            self._make_fields(batch.fields)
        self._check_fields(batch.fields)
        for name, tensor in batch.fields.items():
            self._copy(self._bits[name], slots, _bits(tensor.detach()), rows)
        self._columns[slots] = batch.provenance.numpy()[rows]
        self._times_replayed[slots] = 0
        if losses is None:
            self.last_loss[_index(slots, self.device)] = torch.nan
        else:
            self._copy(self.last_loss, slots, losses.detach().to(torch.float32), rows)

    def read(self, slots: Indices) -> Batch:
        """The samples of some slots, copied, as replayed rows; counts them as replayed."""
        index = _index(slots, self.device)
        fields = {}
        for name, dtype, _ in self._signature:
            chosen = self._bits[name].index_select(0, index)
            fields[name] = chosen if chosen.dtype == dtype else chosen.view(dtype)
        np.add.at(self._times_replayed, slots, 1)
        return Batch(fields, torch.from_numpy(self._columns.take(slots, 0)), 0)

    def state_dict(self, length: int) -> dict[str, Any]:
        """Slots `[0, length)` as views of the live tensors, as modules give theirs."""
        return {
            "fields": {name: t[:length] for name, t in self.fields.items()} if length else {},
            "provenance": self.provenance[:length],
            "times_replayed": self.times_replayed[:length],
            "last_loss": self.last_loss[:length],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> int:
        """Fill slots `[0, length)` and return the length."""
        wanted = {"fields", "provenance", "times_replayed", "last_loss"}
        if set(state) != wanted:
            raise OperatorError(
                f"the saved memory has wrong keys: {sorted(set(state) ^ wanted)}",
                consequence="it cannot be resumed",
            )
        length = len(state["provenance"])
        if length > self.capacity_samples:
            raise OperatorError(
                f"the saved memory holds {length} samples",
                allowed=f"at most memory.capacity_samples, {self.capacity_samples}",
                consequence="it cannot be resumed",
            )
        if state["fields"] and not self.fields:
            self._make_fields(state["fields"])
        if state["fields"]:
            self._check_fields(state["fields"])
        for name, tensor in state["fields"].items():
            self.fields[name][:length] = tensor
        self.provenance[:length] = state["provenance"]
        self.times_replayed[:length] = state["times_replayed"]
        self.last_loss[:length] = state["last_loss"]
        return length

    def _make_fields(self, like: Mapping[str, Tensor]) -> None:
        for name, tensor in like.items():
            shape = (self.capacity_samples, *tensor.shape[1:])
            try:
                room = torch.empty(shape, dtype=tensor.dtype, device=self.device)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                size_bytes = int(np.prod(shape)) * tensor.element_size()
                self.fields.clear()
                raise OperatorError(
                    f"a memory of {self.capacity_samples} samples needs {size_bytes} bytes for "
                    f"field {name!r} on {self.device}, which are not there: {error}",
                    remedy="lower memory.capacity_samples",
                ) from error
            self.fields[name] = room.zero_()
        self._bits = {name: _bits(tensor) for name, tensor in self.fields.items()}
        self._signature = _signature(self.fields)

    def _check_fields(self, fields: Mapping[str, Tensor]) -> None:
        ours, theirs = self._signature, _signature(fields)
        if ours != theirs and sorted(ours, key=_name) != sorted(theirs, key=_name):
            raise InternalError(f"a memory of {ours} was given {theirs}")

    def _copy(self, target: Tensor, slots: Rows, source: Tensor, rows: Rows) -> None:
        if target.is_cpu and source.is_cpu:
            target.numpy()[slots] = source.numpy()[rows]
            return
        chosen = source[_index(rows, source.device)].to(self.device, non_blocking=True)
        target[_index(slots, self.device)] = chosen


def _index(numbers: Rows, device: torch.device) -> Any:
    """For rows of a tensor on the device."""
    if isinstance(numbers, slice):
        return numbers
    index = torch.from_numpy(numbers)
    if device.type != "cuda":
        return index.to(device)
    # from pinned memory the copy does not wait for what the device still has to do
    return index.pin_memory().to(device, non_blocking=True)


def _signature(fields: Mapping[str, Tensor]) -> list[_Entry]:
    return [(name, tensor.dtype, tensor.shape[1:]) for name, tensor in fields.items()]


def _name(entry: _Entry) -> str:
    return entry[0]


def _bits(tensor: Tensor) -> Tensor:
    signed = _SIGNED.get(tensor.dtype)
    return tensor if signed is None else tensor.view(signed)
