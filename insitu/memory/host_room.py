"""Samples in the memory of the host, pinned where the model is on a GPU.

What is remembered is copied from the GPU without waiting for it (`insitu.memory.arrivals`); what is
drawn is gathered on the host and copied to the GPU without waiting either. With the model on the
CPU this is the same as `DeviceRoom`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from insitu.memory.arrivals import Arrivals
from insitu.memory.device_room import DeviceRoom
from insitu.memory.room import Rows
from insitu.sampling import Indices


class HostRoom(DeviceRoom):
    """Field tensors on the host; samples come from and go to `device`.

    Example:
        >>> import numpy as np
        >>> room = HostRoom(4, torch.device("cpu"))
        >>> fields = {"x": torch.tensor([5, 6])}
        >>> room.prepare(fields)
        >>> room.write(slice(0, 2), fields, slice(0, 2))
        >>> room.read(np.array([1]))
        {'x': tensor([6])}
    """

    def __init__(self, capacity_samples: int, device: torch.device) -> None:
        super().__init__(capacity_samples, device, held_on=torch.device("cpu"))
        self._arrivals = Arrivals()

    def write(self, slots: Rows, fields: Mapping[str, Tensor], rows: Rows) -> None:
        self._settle()
        if self.device.type == "cuda":
            self._arrivals.send(slots, fields, rows)
        else:
            super().write(slots, fields, rows)

    def _settle(self) -> None:
        for arrival in self._arrivals.arrived():
            super().write(arrival.slots, arrival.fields, slice(None))

    def read(self, slots: Indices) -> dict[str, Tensor]:
        self._settle()
        chosen = super().read(slots)
        if self.device.type != "cuda":
            return chosen
        return {
            name: tensor.pin_memory().to(self.device, non_blocking=True)
            for name, tensor in chosen.items()
        }

    def state_dict(self, length: int) -> Any:
        self._settle()
        return super().state_dict(length)

    def load_state_dict(self, state: Any, length: int) -> None:
        self._arrivals.clear()
        super().load_state_dict(state, length)
