"""Samples beside the model: one preallocated tensor a field, on one device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from insitu.errors import OperatorError
from insitu.memory.room import Entry, Room, Rows, on_device
from insitu.sampling import Indices

#: torch selects rows of every dtype but these, and numpy has no bfloat16; a view of the same
#: bits is as good
_SIGNED = {
    torch.uint16: torch.int16,
    torch.uint32: torch.int32,
    torch.uint64: torch.int64,
    torch.bfloat16: torch.int16,
}


class DeviceRoom(Room):
    """Field tensors on the device of the model.

    They are made at the first write, with the dtype and shape of what is written, and their pages
    are touched at once. Slots are numbers on the CPU and go to the device without waiting for it.

    Args:
        held_on: where the tensors are, if not on the device itself.
    """

    def __init__(
        self, capacity_samples: int, device: torch.device, *, held_on: torch.device | None = None
    ) -> None:
        super().__init__(capacity_samples, device)
        self._held_on = device if held_on is None else held_on
        self._fields: dict[str, Tensor] = {}
        self._bits: dict[str, Tensor] = {}  # the same memory as dtypes that can be selected from

    def _make(self, entries: list[Entry]) -> None:
        made = {name: self._empty(name, dtype, shape) for name, dtype, shape in entries}
        self._fields = made
        self._bits = {name: as_bits(tensor) for name, tensor in made.items()}

    def _empty(self, name: str, dtype: torch.dtype, shape: torch.Size) -> Tensor:
        whole = (self.capacity_samples, *shape)
        try:
            room = torch.empty(whole, dtype=dtype, device=self._held_on, pin_memory=self._is_pinned)
            return room.zero_()
        except (torch.OutOfMemoryError, RuntimeError) as error:
            size_bytes = int(np.prod(whole)) * dtype.itemsize
            raise OperatorError(
                f"a memory of {self.capacity_samples} samples needs {size_bytes} bytes for "
                f"field {name!r} on {self._held_on}, which are not there: {error}",
                remedy="lower memory.capacity_samples, or choose memory.placement host or disk",
            ) from error

    @property
    def _is_pinned(self) -> bool:
        return self._held_on.type == "cpu" and self.device.type == "cuda"

    def write(self, slots: Rows, fields: Mapping[str, Tensor], rows: Rows) -> None:
        for name, tensor in fields.items():
            copy_rows(self._bits[name], slots, as_bits(tensor.detach()), rows)

    def read(self, slots: Indices) -> dict[str, Tensor]:
        index = on_device(slots, self._held_on)
        chosen = {name: self._bits[name].index_select(0, index) for name, _, _ in self.signature}
        return {name: as_dtype(chosen[name], dtype) for name, dtype, _ in self.signature}

    def state_dict(self, length: int) -> Any:
        return {name: t[:length] for name, t in self._fields.items()} if length else {}

    def load_state_dict(self, state: Any, length: int) -> None:
        if not state:
            return
        self.prepare(state)
        for name, tensor in state.items():
            self._fields[name][:length] = tensor


def copy_rows(target: Tensor, slots: Rows, source: Tensor, rows: Rows) -> None:
    """Rows of one tensor into slots of another, which may be on another device."""
    if target.is_cpu and source.is_cpu:
        target.numpy()[slots] = source.numpy()[rows]
        return
    chosen = source[on_device(rows, source.device)].to(target.device, non_blocking=True)
    target[on_device(slots, target.device)] = chosen


def as_bits(tensor: Tensor) -> Tensor:
    """The same bits, as a dtype whose rows can be selected."""
    signed = _SIGNED.get(tensor.dtype)
    return tensor if signed is None else tensor.view(signed)


def as_dtype(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The way back from `as_bits`."""
    return tensor if tensor.dtype == dtype else tensor.view(dtype)
