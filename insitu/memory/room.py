"""Where the fields of remembered samples lie: the contract, and what all places share.

A room knows slots and tensors and nothing else; provenance and counters are in `SampleStore`.
`insitu.memory.device_room` keeps them beside the model, `host_room` in pinned memory of the host,
`disk_room` in a file that is mapped into memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from insitu.errors import InternalError
from insitu.sampling import Indices

#: some rows: their numbers, or neighbours
Rows = Indices | slice

#: name of a field, dtype, shape of one sample
Entry = tuple[str, torch.dtype, torch.Size]


class Room(ABC):
    """Slots `[0, capacity)` with the fields of one sample each.

    Args:
        capacity_samples: slots.
        device: where samples come from and go to: that of the model.
    """

    #: the one key of its state: states of one key go from room to room
    key: str = "fields"

    def __init__(self, capacity_samples: int, device: torch.device) -> None:
        self.capacity_samples = capacity_samples
        self.device = device
        self.signature: list[Entry] = []

    def prepare(self, fields: Mapping[str, Tensor]) -> None:
        """Make room for samples like these, or check that they are like those that are there.

        To be called before the first `write`.
        """
        theirs = signature(fields)
        if not self.signature:
            self._make(theirs)
            self.signature = theirs
        elif self.signature != theirs and sorted(self.signature, key=_name) != sorted(
            theirs, key=_name
        ):
            raise InternalError(f"a memory of {self.signature} was given {theirs}")

    @abstractmethod
    def _make(self, entries: list[Entry]) -> None:
        """Make room for samples of these fields."""

    @abstractmethod
    def write(self, slots: Rows, fields: Mapping[str, Tensor], rows: Rows) -> None:
        """Put rows of the fields into slots, all different.

        A slice of neighbours is copied faster than as many numbers.
        """

    @abstractmethod
    def read(self, slots: Indices) -> dict[str, Tensor]:
        """Copies of the samples of some slots, on the device."""

    @abstractmethod
    def state_dict(self, length: int) -> Any:
        """Slots `[0, length)`, as views where there are tensors."""

    def count_checkpoints_by(self, written: Callable[[], int]) -> None:  # noqa: B027
        """How many checkpoints are on the disk; for rooms whose states are not whole alone."""

    @abstractmethod
    def load_state_dict(self, state: Any, length: int) -> None:
        """Fill slots `[0, length)`."""


def signature(fields: Mapping[str, Tensor]) -> list[Entry]:
    """Name, dtype and shape of every field of a sample."""
    return [(name, tensor.dtype, tensor.shape[1:]) for name, tensor in fields.items()]


def on_device(numbers: Rows, device: torch.device) -> Any:
    """Numbers of rows, to choose from a tensor on the device."""
    if isinstance(numbers, slice):
        return numbers
    index = torch.from_numpy(numbers)
    if device.type != "cuda":
        return index.to(device)
    # from pinned memory the copy does not wait for what the device still has to do
    return index.pin_memory().to(device, non_blocking=True)


def _name(entry: Entry) -> str:
    return entry[0]
