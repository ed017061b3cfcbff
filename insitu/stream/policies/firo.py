"""First in, random out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from insitu.sampling import Indices, distinct
from insitu.stream.policies.base import NO_SLOTS, Drawn, Policy, as_tensor
from insitu.stream.slots import SlotAges, SlotList


class FIRO(Policy):
    """First in, random out: each sample once, drawn uniformly from those above the watermark."""

    def __init__(self, capacity_samples: int, *, watermark_samples: int = 0) -> None:
        super().__init__(capacity_samples, watermark_samples=watermark_samples)
        self._unseen = SlotList(capacity_samples)
        self._ages = SlotAges(capacity_samples, self._unseen)

    @property
    def unseen(self) -> int:
        return len(self._unseen)

    def admit(self, slots: Indices, generator: torch.Generator) -> Indices:
        self._unseen.append(slots)
        self._ages.push(slots)
        return NO_SLOTS

    def drawable(self, count: int, visits: Indices, most_draws: int | None, ending: bool) -> int:
        behind = 0 if ending else self.watermark_samples
        return max(0, min(count, len(self._unseen) - behind))

    def draw(
        self,
        count: int,
        visits: Indices,
        generator: torch.Generator,
        most_draws: int | None,
        ending: bool,
    ) -> Drawn:
        slots = _take_distinct(self._unseen, count, generator)
        return Drawn(slots, slots, slots)

    def drop_oldest(self, count: int) -> Indices:
        slots = self._ages.oldest(count)
        self._unseen.remove(slots)
        return slots

    def held(self) -> Indices:
        return self._unseen.slots().copy()

    def state_dict(self, number: Indices) -> dict[str, Any]:
        return {
            "unseen": as_tensor(number[self._unseen.slots()]),
            "ages": as_tensor(number[self._ages.in_order()]),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        unseen, ages = self._check_keys(state, "unseen", "ages")
        self._unseen.replace(unseen)
        self._ages.replace(ages)


def _take_distinct(members: SlotList, count: int, generator: torch.Generator) -> Indices:
    slots = members.at(distinct(len(members), count, generator))
    members.remove(slots)
    return slots
