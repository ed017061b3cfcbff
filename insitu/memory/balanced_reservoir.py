"""Balancing reservoir sampling, whatever the groups are: what the policies by class and task share.

Chrysakis and Moens, "Online Continual Learning from Imbalanced Data", ICML 2020, algorithm 1
(CBRS). A group is *full* from the moment at which it is a largest one in a full memory.

    memory not full            keep
    group c not full           replace a uniform sample of a largest group
    group c full               with probability m_c / n_c replace a uniform sample of c itself,
                               else pass over

where m_c samples of group c are in the memory and n_c were offered so far, this one included.
A group that is not full holds all that it was offered, one that is full a uniform choice of it.

Once all groups of a batch are full nothing moves between groups any more, and the batch is placed
at once instead of row by row, with the same draws and the same outcome.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from insitu.batch import Batch
from insitu.memory.base import Memory
from insitu.memory.groups import Groups, loaded_members, saved_members
from insitu.sampling import Indices

_Draws = npt.NDArray[np.float64]


class BalancedReservoir(Memory):
    """About as many samples of every group, each group by a reservoir of its own.

    Args:
        most_groups: distinct groups that are accepted.
    """

    def __init__(
        self,
        capacity_samples: int,
        device: torch.device,
        generator: torch.Generator,
        most_groups: int,
    ) -> None:
        super().__init__(capacity_samples, device, generator)
        self._groups = Groups(most_groups)
        self._members: list[list[int]] = []  # group -> its slots in the memory
        self._offered = np.zeros(most_groups, np.int64)
        self._full = np.zeros(most_groups, np.bool_)
        self._filled = 0

    @abstractmethod
    def _labels(self, batch: Batch) -> Indices:
        """The label of the group of every row."""

    def _place(self, batch: Batch, rows: Indices) -> tuple[Indices, Indices]:
        labels = self._labels(batch)[rows].tolist()
        draws = torch.rand(len(rows), 3, dtype=torch.float64, generator=self._generator).numpy()
        numbers = self._groups.numbers(labels)
        while len(self._members) < len(self._groups):
            self._members.append([])
        if self._full[numbers].all():
            slots = self._place_in_full(np.array(numbers), draws)
        else:
            each = zip(numbers, draws.tolist(), strict=True)
            slots = np.array([self._place_one(number, draw) for number, draw in each])
        kept = (slots >= 0).nonzero()[0]
        return slots[kept], rows[kept]

    def _place_in_full(self, numbers: Indices, draws: _Draws) -> Indices:
        """As `_place_one` row by row, where all groups are full: sizes stay as they are."""
        offered = self._offered[numbers] + _turns(numbers)
        np.add.at(self._offered, numbers, 1)
        sizes = self._groups.sizes[numbers]
        slots = np.full(len(numbers), -1)
        for row in (draws[:, 0] * offered < sizes).nonzero()[0].tolist():
            slots[row] = self._members[numbers[row]][int(draws[row, 1] * sizes[row])]
        return slots

    def _place_one(self, number: int, draws: list[float]) -> int:
        self._offered[number] += 1
        if self._filled < self.capacity_samples:
            slot = self._filled
            self._filled += 1
            self._members[number].append(slot)
            self._groups.change(number, +1)
            return slot
        largest = self._groups.largest()
        self._full[largest] = True
        if self._full[number]:
            return self._replace_own(number, draws)
        victim = largest[int(draws[0] * len(largest))]
        slots = self._members[victim]
        place = int(draws[1] * len(slots))
        slot, slots[place] = slots[place], slots[-1]
        slots.pop()
        self._members[number].append(slot)
        self._groups.change(victim, -1)
        self._groups.change(number, +1)
        return slot

    def _replace_own(self, number: int, draws: list[float]) -> int:
        slots = self._members[number]
        if draws[0] * self._offered[number] >= len(slots):
            return -1
        return slots[int(draws[1] * len(slots))]

    def _policy_state(self) -> dict[str, Any]:
        groups = len(self._groups)
        return {
            **self._groups.state_dict(),
            "slots": saved_members(self._members),
            "offered": torch.from_numpy(self._offered[:groups]),
            "full": torch.from_numpy(self._full[:groups]),
        }

    def _load_policy_state(self, state: Mapping[str, Any]) -> None:
        self._groups.load_state_dict(state)
        groups = len(self._groups)
        for own, key in ((self._offered, "offered"), (self._full, "full")):
            own[:] = 0
            own[:groups] = state[key].cpu().numpy()
        self._members = loaded_members(state["slots"], self._groups.sizes[:groups])
        self._filled = int(self._groups.sizes.sum())


def _turns(numbers: Indices) -> Indices:
    """How often each number has come up to its place, from 1.

    Example:
        >>> _turns(np.array([4, 0, 4, 4])).tolist()
        [1, 1, 2, 3]
    """
    order = np.argsort(numbers, kind="stable")
    ordered = numbers[order]
    begins = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    lengths = np.diff(np.concatenate((begins, [len(numbers)])))
    turns = np.empty(len(numbers), np.int64)
    turns[order] = np.arange(len(numbers)) - np.repeat(begins, lengths) + 1
    return turns
