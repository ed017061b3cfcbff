"""Rows on their way from a GPU to the host, which does not wait for them.

They are copied into pinned blocks, and taken over when the memory is next used: a step later, long
after they have arrived. So what happens does not depend on how fast anything is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from insitu.memory.room import Rows, on_device


@dataclass(frozen=True)
class Arrival:
    """Rows of some fields on the host, and the slots where they belong."""

    slots: Rows
    fields: Mapping[str, Tensor]
    event: torch.cuda.Event


class Arrivals:
    """What was sent and not yet taken over, in order."""

    def __init__(self) -> None:
        self._waiting: list[Arrival] = []

    def send(self, slots: Rows, fields: Mapping[str, Tensor], rows: Rows) -> None:
        """Have rows of the fields, which are on a GPU, copied to the host."""
        landed = {name: _sent(tensor.detach(), rows) for name, tensor in fields.items()}
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(next(iter(fields.values())).device))
        self._waiting.append(Arrival(slots, landed, event))

    def arrived(self) -> Iterator[Arrival]:
        """All of them, once they are there; they are forgotten."""
        waiting, self._waiting = self._waiting, []
        for arrival in waiting:
            arrival.event.synchronize()  # of the step before: it is done
            yield arrival

    def clear(self) -> None:
        self._waiting = []


def _sent(tensor: Tensor, rows: Rows) -> Tensor:
    chosen = tensor[on_device(rows, tensor.device)].contiguous()
    block = torch.empty(chosen.shape, dtype=chosen.dtype, pin_memory=True)
    return block.copy_(chosen, non_blocking=True)
