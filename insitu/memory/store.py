"""What is remembered: samples in a room, and beside each what is known of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from insitu.batch import Batch, Column
from insitu.errors import OperatorError
from insitu.memory.device_room import DeviceRoom, copy_rows
from insitu.memory.room import Room, Rows, on_device
from insitu.sampling import Indices


class SampleStore:
    """Slots `[0, capacity)` with samples in them.

    Provenance and counters live on the CPU, losses and classes on the device, so nothing here
    waits for the device.

    Args:
        capacity_samples: slots.
        device: where samples come from and go to.
        room: where their fields lie; by default on the device.
        labels: gives the class of every row of a batch, or None where there are none; by default
            none are known.
    """

    def __init__(
        self,
        capacity_samples: int,
        device: torch.device,
        *,
        room: Room | None = None,
        labels: Callable[[Batch], Tensor | None] | None = None,
    ) -> None:
        if capacity_samples < 1:
            raise OperatorError(f"a memory of {capacity_samples} samples", allowed="1 or more")
        self.capacity_samples = capacity_samples
        self.device = device
        self.room: Room = DeviceRoom(capacity_samples, device) if room is None else room
        self._labels = labels
        self.provenance = torch.zeros(capacity_samples, len(Column), dtype=torch.int64)
        self.times_replayed = torch.zeros(capacity_samples, dtype=torch.int64)
        #: how many samples had been offered, its own batch included, when it was remembered
        self.offered_before = torch.zeros(capacity_samples, dtype=torch.int64)
        #: loss per sample when it was last seen, NaN when it was not told
        self.last_loss = torch.full((capacity_samples,), torch.nan, device=device)
        #: class per sample, where classes are known
        self.classes = torch.zeros(capacity_samples, dtype=torch.int64, device=device)
        self.has_classes = False
        # the same memory once more: on few rows numpy takes half the time of torch
        self._columns = self.provenance.numpy()
        self._times_replayed = self.times_replayed.numpy()
        self._offered_before = self.offered_before.numpy()

    def write(
        self, slots: Rows, batch: Batch, rows: Rows, losses: Tensor | None, offered: int
    ) -> None:
        """Put rows of a batch into slots, all different; what was there is forgotten.

        A slice of neighbours is copied faster than as many numbers.
        """
        self.room.write(slots, batch.fields, rows)
        self._columns[slots] = batch.provenance.numpy()[rows]
        self._times_replayed[slots] = 0
        self._offered_before[slots] = offered
        labels = None if self._labels is None else self._labels(batch)
        if labels is not None:
            copy_rows(self.classes, slots, labels.detach().to(torch.int64), rows)
            self.has_classes = True
        if losses is None:
            self.last_loss[on_device(slots, self.device)] = torch.nan
        else:
            copy_rows(self.last_loss, slots, losses.detach().to(torch.float32), rows)

    def write_losses(self, slots: Indices, losses: Tensor) -> None:
        """What the samples of some slots were last seen to cost."""
        copy_rows(self.last_loss, slots, losses.detach().to(torch.float32), slice(None))

    def read(self, slots: Indices) -> Batch:
        """The samples of some slots, copied, as replayed rows."""
        provenance = torch.from_numpy(self._columns.take(slots, 0))
        return Batch(self.room.read(slots), provenance, 0)

    def count_replayed(self, slots: Indices) -> None:
        """These slots were given back once more; each as often as it is named."""
        np.add.at(self._times_replayed, slots, 1)

    def state_dict(self, length: int) -> dict[str, Any]:
        """Slots `[0, length)` as views of the live tensors, as modules give theirs."""
        return {
            self.room.key: self.room.state_dict(length),
            "provenance": self.provenance[:length],
            "times_replayed": self.times_replayed[:length],
            "offered_before": self.offered_before[:length],
            "last_loss": self.last_loss[:length],
            "classes": self.classes[: length if self.has_classes else 0],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> int:
        """Fill slots `[0, length)` and return the length."""
        per_slot = {
            "provenance": self.provenance,
            "times_replayed": self.times_replayed,
            "offered_before": self.offered_before,
            "last_loss": self.last_loss,
        }
        wanted = {self.room.key, "classes", *per_slot}
        if set(state) != wanted:
            raise OperatorError(
                f"the saved memory has wrong keys: {sorted(set(state) ^ wanted)}",
                consequence="it cannot be resumed",
                remedy="resume with the memory.placement that it was saved with"
                if "file" in set(state) ^ wanted
                else "",
            )
        length = len(state["provenance"])
        if length > self.capacity_samples:
            raise OperatorError(
                f"the saved memory holds {length} samples",
                allowed=f"at most memory.capacity_samples, {self.capacity_samples}",
                consequence="it cannot be resumed",
            )
        self.room.load_state_dict(state[self.room.key], length)
        for name, tensor in per_slot.items():
            tensor[:length] = state[name]
        self.has_classes = len(state["classes"]) > 0
        self.classes[: len(state["classes"])] = state["classes"]
        return length
