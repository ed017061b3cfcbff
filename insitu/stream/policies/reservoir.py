"""Random with repetition, above a watermark; seen samples make room."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from insitu.errors import OperatorError
from insitu.sampling import Indices, distinct, uniform
from insitu.stream.policies.base import NO_SLOTS, Drawn, Policy, as_tensor
from insitu.stream.slots import SlotAges, SlotList


class Reservoir(Policy):
    """Drawn uniformly with repetition; seen samples make room, unseen ones never do.

    When more are admitted than it keeps, seen samples are evicted uniformly at random. When all
    are unseen there is no room. At the end of the stream each unseen sample comes once.

    Args:
        kept_samples: the most samples held; the rest of the ring is for arrivals. Three quarters
            of the capacity by default, and at least the watermark.
    """

    draws_once = False

    def __init__(
        self, capacity_samples: int, *, watermark_samples: int = 0, kept_samples: int | None = None
    ) -> None:
        super().__init__(capacity_samples, watermark_samples=watermark_samples)
        if kept_samples is None:
            share = max(1, capacity_samples - max(1, capacity_samples // 4))
            kept_samples = max(watermark_samples, share)
        if not max(1, watermark_samples) <= kept_samples <= capacity_samples:
            raise OperatorError(
                f"kept_samples is {kept_samples}",
                allowed=f"{max(1, watermark_samples)} (the watermark) to {capacity_samples}",
            )
        self.kept_samples = kept_samples
        self._pool = SlotList(capacity_samples)
        self._unseen = SlotList(capacity_samples)
        self._seen = SlotList(capacity_samples)
        self._ages = SlotAges(capacity_samples, self._unseen)
        self._times_drawn = np.zeros(capacity_samples, np.int64)
        self._draws = 0  # sum of times_drawn over the pool

    @property
    def unseen(self) -> int:
        return len(self._unseen)

    @property
    def seen(self) -> int:
        return len(self._seen)

    @property
    def resident_samples(self) -> int:
        return self.kept_samples

    def room(self) -> int:
        return self.kept_samples - len(self._unseen)

    def admit(self, slots: Indices, generator: torch.Generator) -> Indices:
        excess = len(self._pool) + len(slots) - self.kept_samples
        evicted = NO_SLOTS
        if excess > 0:
            evicted = self._seen.at(distinct(len(self._seen), excess, generator))
            self._forget(evicted)
        self._times_drawn[slots] = 0
        for members in (self._pool, self._unseen):
            members.append(slots)
        self._ages.push(slots)
        return evicted

    def drawable(self, count: int, visits: Indices, most_draws: int | None, ending: bool) -> int:
        if ending:
            return min(count, len(self._unseen))
        if len(self._pool) < max(1, self.watermark_samples):
            return 0
        if most_draws is None:
            return count
        return min(count, most_draws * len(self._pool) - self._draws)

    def draw(
        self,
        count: int,
        visits: Indices,
        generator: torch.Generator,
        most_draws: int | None,
        ending: bool,
    ) -> Drawn:
        if ending:
            slots = self._unseen.at(distinct(len(self._unseen), count, generator))
        else:
            slots = self._pool.at(uniform(len(self._pool), count, generator))
        np.add.at(self._times_drawn, slots, 1)
        if most_draws is not None and not ending:
            slots = self._within(slots, most_draws, generator)
        self._draws += count
        # by first appearance, so that where in the ring a sample lies changes nothing
        chosen = slots[np.sort(np.unique(slots, return_index=True)[1])]
        first = chosen[self._unseen.contains(chosen)]
        self._unseen.remove(first)
        self._seen.append(first)
        worn_out = NO_SLOTS
        if most_draws is not None:
            worn_out = chosen[self._times_drawn[chosen] >= most_draws]
            self._forget(worn_out)
        return Drawn(slots, first, worn_out)

    def drop_oldest(self, count: int) -> Indices:
        slots = self._ages.oldest(count)
        self._unseen.remove(slots)
        self._pool.remove(slots)
        return slots

    def held(self) -> Indices:
        return np.concatenate((self._unseen.slots(), self._seen.slots()))

    def state_dict(self, number: Indices) -> dict[str, Any]:
        pool = self._pool.slots()
        return {
            "pool": as_tensor(number[pool]),
            "times_drawn": as_tensor(self._times_drawn[pool]),
            "unseen": as_tensor(number[self._unseen.slots()]),
            "seen": as_tensor(number[self._seen.slots()]),
            "ages": as_tensor(number[self._ages.in_order()]),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pool, times_drawn, unseen, seen, ages = self._check_keys(
            state, "pool", "times_drawn", "unseen", "seen", "ages"
        )
        if len(pool) > self.kept_samples:
            raise OperatorError(
                f"the saved reservoir holds {len(pool)} samples",
                allowed=f"at most {self.kept_samples}, what this one keeps",
                remedy="raise buffer.capacity_samples",
            )
        self._pool.replace(pool)
        self._unseen.replace(unseen)
        self._seen.replace(seen)
        self._ages.replace(ages)
        self._times_drawn[pool] = times_drawn
        self._draws = int(times_drawn.sum())

    def _within(self, slots: Indices, most_draws: int, generator: torch.Generator) -> Indices:
        """Draw again, from those not worn out, where a sample would come too often."""
        while True:
            surplus = _beyond(slots, self._times_drawn[slots] - most_draws)
            if not surplus.any():
                return slots
            np.subtract.at(self._times_drawn, slots[surplus], 1)
            pool = self._pool.slots()
            fit = pool[self._times_drawn[pool] < most_draws]
            again = fit[uniform(len(fit), int(surplus.sum()), generator)]
            np.add.at(self._times_drawn, again, 1)
            slots[surplus] = again

    def _forget(self, slots: Indices) -> None:
        """Let go of seen samples."""
        self._draws -= int(self._times_drawn[slots].sum())
        self._seen.remove(slots)
        self._pool.remove(slots)


def _beyond(slots: Indices, excess: Indices) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Marks, of each slot with an excess of k above 0, its last k appearances."""
    order = np.argsort(slots[::-1], kind="stable")
    ordered = slots[::-1][order]
    start = np.searchsorted(ordered, ordered, side="left")
    rank = np.empty(len(slots), np.int64)  # how many of the same slot come later
    rank[order] = np.arange(len(slots)) - start
    marks: np.ndarray[tuple[int], np.dtype[np.bool_]] = rank[::-1] < excess
    return marks
