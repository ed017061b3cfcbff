"""Samples in the memory of the host, pinned where the model is on a GPU.

What is remembered is copied from the GPU without waiting for it: rows land in a pinned block and
are moved to their slots when the memory is next used, long after they have arrived. What is drawn
is gathered on the host and copied to the GPU without waiting either. With the model on the CPU
this is the same as `DeviceRoom`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from insitu.memory.device_room import DeviceRoom
from insitu.memory.room import Rows, on_device
from insitu.sampling import Indices

_HOST = torch.device("cpu")


@dataclass(frozen=True)
class _Arriving:
    """Rows on their way from the device, and where they belong."""

    slots: Rows
    fields: Mapping[str, Tensor]
    event: torch.cuda.Event


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
        super().__init__(capacity_samples, device, held_on=_HOST)
        self._arriving: list[_Arriving] = []

    def write(self, slots: Rows, fields: Mapping[str, Tensor], rows: Rows) -> None:
        self._settle()
        if self.device.type != "cuda":
            super().write(slots, fields, rows)
            return
        landed = {name: self._sent(tensor.detach(), rows) for name, tensor in fields.items()}
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self.device))
        self._arriving.append(_Arriving(slots, landed, event))

    @staticmethod
    def _sent(tensor: Tensor, rows: Rows) -> Tensor:
        chosen = tensor[on_device(rows, tensor.device)].contiguous()
        block = torch.empty(chosen.shape, dtype=chosen.dtype, pin_memory=True)
        return block.copy_(chosen, non_blocking=True)

    def _settle(self) -> None:
        """Move what has arrived to its slots."""
        arrived, self._arriving = self._arriving, []
        for part in arrived:
            part.event.synchronize()  # of the step before: it is done
            super().write(part.slots, part.fields, slice(None))

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
        self._arriving = []
        super().load_state_dict(state, length)
