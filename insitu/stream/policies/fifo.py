"""First in, first out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from insitu.sampling import Indices
from insitu.stream.policies.base import NO_SLOTS, Drawn, Policy, as_tensor
from insitu.stream.slots import SlotQueue


class FIFO(Policy):
    """Each sample once, in order. A draw never runs on into a newer visit.

    A draw is cut short where the first sample of a visit stands that is newer than all before:
    so one task's samples are trained before the next task's, and the task can be consolidated.
    """

    def __init__(self, capacity_samples: int) -> None:
        super().__init__(capacity_samples)
        self._queue = SlotQueue(capacity_samples)
        self._newest_visit = -1

    @property
    def unseen(self) -> int:
        return len(self._queue)

    def admit(self, slots: Indices, generator: torch.Generator) -> Indices:
        self._queue.push(slots)
        return NO_SLOTS

    def drawable(self, count: int, visits: Indices, most_draws: int | None, ending: bool) -> int:
        available = min(count, len(self._queue))
        if available == 0:
            return 0
        coming = visits[self._queue.peek(available)]
        newest = max(self._newest_visit, int(coming[0]))
        if coming.max() <= newest:
            return available
        return int((coming > newest).argmax())

    def is_cut(self, count: int, visits: Indices) -> bool:
        available = min(count, len(self._queue))
        return self.drawable(available, visits, None, False) < available

    def draw(
        self,
        count: int,
        visits: Indices,
        generator: torch.Generator,
        most_draws: int | None,
        ending: bool,
    ) -> Drawn:
        slots = self._queue.pop(count)
        self._newest_visit = max(self._newest_visit, int(visits[slots[0]]))
        return Drawn(slots, slots, slots)

    def drop_oldest(self, count: int) -> Indices:
        return self._queue.pop(min(count, len(self._queue)))

    def held(self) -> Indices:
        return self._queue.slots()

    def state_dict(self, number: Indices) -> dict[str, Any]:
        return {
            "queue": as_tensor(number[self._queue.slots()]),
            "newest_visit": torch.tensor(self._newest_visit, dtype=torch.int64),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        queue, newest_visit = self._check_keys(state, "queue", "newest_visit")
        self._queue.replace(queue)
        self._newest_visit = int(newest_visit)
