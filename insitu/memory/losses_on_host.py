"""Losses of remembered samples where the host can decide by them, without waiting for a GPU.

From a GPU they are copied to pinned memory and taken over when they are next looked at, which is a
step later, long after they have arrived. So what is seen does not depend on how fast anything is.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from insitu.sampling import Indices


class LossesOnHost:
    """One loss a slot, NaN where none was told.

    Example:
        >>> losses = LossesOnHost(3)
        >>> losses.tell(np.array([2]), torch.tensor([0.5]))
        >>> losses.values()
        array([nan, nan, 0.5], dtype=float32)
    """

    def __init__(self, capacity_samples: int) -> None:
        self._values = np.full(capacity_samples, np.nan, np.float32)
        self._arriving: list[tuple[Indices, Tensor, torch.cuda.Event]] = []

    def tell(self, slots: Indices, losses: Tensor | None) -> None:
        """(len(slots),) losses on any device; None for unknown ones."""
        if losses is None or losses.is_cpu:
            self._settle()
            self._values[slots] = np.nan if losses is None else losses.detach().numpy()
            return
        block = torch.empty(losses.shape, dtype=torch.float32, pin_memory=True)
        block.copy_(losses.detach(), non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(losses.device))
        self._arriving.append((slots, block, event))

    def values(self) -> npt.NDArray[np.float32]:
        """(capacity,) of all slots."""
        self._settle()
        return self._values

    def load(self, losses: Tensor) -> None:
        """(len,) of the first slots; the others are unknown."""
        self._arriving = []
        self._values[:] = np.nan
        self._values[: len(losses)] = losses.detach().cpu().numpy()

    def _settle(self) -> None:
        arrived, self._arriving = self._arriving, []
        for slots, block, event in arrived:
            event.synchronize()
            self._values[slots] = block.numpy()
