"""Which admitted samples a draw takes, and which make room: FIFO, FIRO and Reservoir.

The three buffers of Melissa (Meyer et al., "Training deep surrogate models with large scale
online learning", ICML 2023, and "High throughput training of deep surrogates from large
ensemble runs", SC 2023), as pure logic on slot numbers: no data, no lock, no clock. Every
operation costs O(rows it moves), on preallocated arrays; a policy draws random numbers only
from the generator it is handed, so the same calls give the same answers.

Deviations: our Reservoir evicts when a sample is admitted, not when it arrives, so that its
random numbers depend on the order of arrivals only; it therefore keeps a share of the ring free
for arrivals (`kept_samples`). It can retire a sample after a number of draws (`FreePace`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from insitu.errors import OperatorError
from insitu.sampling import Indices, distinct, uniform
from insitu.stream.slots import SlotAges, SlotList, SlotQueue

_NONE = np.empty(0, np.int64)
_NONE.flags.writeable = False


@dataclass(frozen=True)
class Drawn:
    """What a policy draws.

    Args:
        slots: the batch, in order; with repetition only from a Reservoir.
        first: those of them that were never drawn before, each once.
        freed: those that the policy no longer holds, each once.
    """

    slots: Indices
    first: Indices
    freed: Indices


class Policy(ABC):
    """Holds admitted slots until they are drawn, evicted or dropped.

    Args:
        capacity_samples: slots of the ring.
        watermark_samples: samples that stay behind until the stream ends.
    """

    #: each sample is drawn exactly once
    draws_once: bool = True

    def __init__(self, capacity_samples: int, *, watermark_samples: int = 0) -> None:
        if capacity_samples < 1:
            raise OperatorError(f"capacity_samples is {capacity_samples}", allowed="1 or more")
        if not 0 <= watermark_samples < capacity_samples:
            raise OperatorError(
                f"watermark_samples is {watermark_samples}",
                allowed=f"0 to {capacity_samples - 1}, less than the capacity",
                consequence="the buffer would fill up before the first draw and wait for ever",
            )
        self.capacity_samples = capacity_samples
        self.watermark_samples = watermark_samples

    @property
    @abstractmethod
    def unseen(self) -> int:
        """Samples held that were never drawn."""

    @property
    def seen(self) -> int:
        """Samples held that were drawn before."""
        return 0

    @property
    def resident_samples(self) -> int:
        """Slots that may stay occupied however long the learner waits for arrivals."""
        return self.watermark_samples

    def room(self) -> int:
        """How many samples can be admitted, evicting seen ones where needed."""
        return self.capacity_samples - self.unseen

    @abstractmethod
    def admit(self, slots: Indices, generator: torch.Generator) -> Indices:
        """Take slots over, at most `room()`, and return those evicted for them."""

    @abstractmethod
    def drawable(self, count: int, visits: Indices, most_draws: int | None, ending: bool) -> int:
        """How many rows, up to `count`, a draw would give now.

        Args:
            visits: number of the visit by slot.
            most_draws: how often one sample may be drawn; None without limit.
            ending: the stream is over: watermarks do not count, each unseen sample comes once.
        """

    def is_cut(self, count: int, visits: Indices) -> bool:
        """Whether a draw of fewer than `count` rows is as long as it will ever get."""
        return False

    @abstractmethod
    def draw(
        self,
        count: int,
        visits: Indices,
        generator: torch.Generator,
        most_draws: int | None,
        ending: bool,
    ) -> Drawn:
        """Draw `count` rows, at most `drawable()`."""

    @abstractmethod
    def drop_oldest(self, count: int) -> Indices:
        """Give up the `count` oldest unseen samples, or all when there are fewer."""

    @abstractmethod
    def held(self) -> Indices:
        """All slots held, the unseen first; a copy."""

    @abstractmethod
    def state_dict(self, number: Indices) -> dict[str, Any]:
        """The slots held, in every order that matters, as int64 tensors.

        Args:
            number: slot -> the number by which it goes in the state, so that the state does not
                depend on where in the ring a sample lies; the state is loaded by that number.
        """

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Hold exactly these slots; an unknown or missing key is an `OperatorError`."""

    def _check_keys(self, state: Mapping[str, Any], *keys: str) -> list[Indices]:
        if set(state) != set(keys):
            raise OperatorError(
                f"the saved state of a {type(self).__name__} buffer has {sorted(state)}",
                allowed=", ".join(keys),
                consequence="it cannot be resumed; was it saved with another buffer policy?",
            )
        return [state[key].numpy() for key in keys]


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
        return _NONE

    def drawable(self, count: int, visits: Indices, most_draws: int | None, ending: bool) -> int:
        available = min(count, len(self._queue))
        if available == 0:
            return 0
        coming = visits[self._queue.peek(available)]
        newer = coming > max(self._newest_visit, int(coming[0]))
        first_newer = int(newer.argmax())
        return first_newer if newer[first_newer] else available

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
            "queue": _tensor(number[self._queue.slots()]),
            "newest_visit": torch.tensor(self._newest_visit, dtype=torch.int64),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        queue, newest_visit = self._check_keys(state, "queue", "newest_visit")
        self._queue.replace(queue)
        self._newest_visit = int(newest_visit)


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
        return _NONE

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
            "unseen": _tensor(number[self._unseen.slots()]),
            "ages": _tensor(number[self._ages.in_order()]),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        unseen, ages = self._check_keys(state, "unseen", "ages")
        self._unseen.replace(unseen)
        self._ages.replace(ages)


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
        evicted = _NONE
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
        chosen = np.unique(slots)
        first = chosen[self._unseen.contains(chosen)]
        self._unseen.remove(first)
        self._seen.append(first)
        worn_out = _NONE
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
            "pool": _tensor(number[pool]),
            "times_drawn": _tensor(self._times_drawn[pool]),
            "unseen": _tensor(number[self._unseen.slots()]),
            "seen": _tensor(number[self._seen.slots()]),
            "ages": _tensor(number[self._ages.in_order()]),
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


def _take_distinct(members: SlotList, count: int, generator: torch.Generator) -> Indices:
    slots = members.at(distinct(len(members), count, generator))
    members.remove(slots)
    return slots


def _tensor(numbers: Indices) -> torch.Tensor:
    return torch.from_numpy(np.array(numbers, np.int64))
