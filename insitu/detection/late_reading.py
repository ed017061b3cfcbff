"""Values of a device, read some steps later, so that nobody waits for them.

A detector decides on the host. Asking a GPU for the loss of the step in progress would make the
host wait for it at every step. So the value is copied into pinned memory behind the step's own
work, and looked at `lag_steps` calls later, when it has long arrived. The lag is a number of calls
and not a matter of luck: the same stream gives the same decisions. On the CPU there is nothing to
wait for, and the lag is 0.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Values = NDArray[np.float64]


class LateReading:
    """A queue of values on their way from the device to the host.

    Args:
        lag_steps: calls between a value and its reading, for tensors of a GPU.

    Example:
        >>> reading = LateReading()
        >>> reading(torch.tensor([1.0, 2.0]))
        array([1., 2.])
    """

    def __init__(self, lag_steps: int = 1) -> None:
        self._lag_steps = lag_steps
        self._pending: deque[tuple[Tensor, torch.cuda.Event | None]] = deque()

    def __call__(self, values: Tensor) -> Values | None:
        """Send values off; those that are due, as a float64 copy on the host, or None yet."""
        values = values.detach()
        if values.device.type != "cuda" and not self._pending:
            return _on_host(values)
        self._pending.append(_sent(values))
        if len(self._pending) <= self._lag_steps:
            return None
        due, arrived = self._pending.popleft()
        if arrived is not None:
            arrived.synchronize()
        return _on_host(due)

    def clear(self) -> None:
        """Forget what is on its way."""
        self._pending.clear()

    def state_dict(self) -> dict[str, Any]:
        """What is on its way; waits for it."""
        for _, arrived in self._pending:
            if arrived is not None:
                arrived.synchronize()
        return {"pending": [values.clone() for values, _ in self._pending]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._pending = deque((values.clone(), None) for values in state["pending"])


def _sent(values: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    if values.device.type != "cuda":
        return values.cpu().clone(), None
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    host.copy_(values, non_blocking=True)
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record()
    return host, arrived


def _on_host(values: Tensor) -> Values:
    """A copy of its own: a batch lies in a block that is soon filled again."""
    return np.array(values.cpu().numpy(), dtype=np.float64)
