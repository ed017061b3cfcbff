"""A memory that all classes seen share evenly: what ring and herding have in common.

    memory not full                           keep
    class c has none, or two less than the    a largest class gives up one sample of its choice
    largest class
    else                                      class c replaces one of its own, or passes over

So the quota is capacity / classes seen, no class has to be announced, no slot stays empty, and the
sizes of classes that have offered enough differ by one at most. With more classes than room the
class that comes takes the place of the one that appeared first.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from insitu.batch import Batch
from insitu.memory.base import Memory
from insitu.memory.groups import Groups, check_label, labels
from insitu.sampling import Indices
from insitu.schema import Schema


class SharedQuota(Memory):
    """Every class has about the same number of slots.

    Args:
        label: field with the class of a sample.
        most_classes: distinct classes that are accepted.
    """

    def __init__(
        self,
        capacity_samples: int,
        device: torch.device,
        generator: torch.Generator,
        label: str,
        most_classes: int,
    ) -> None:
        super().__init__(capacity_samples, device, generator)
        self._label = label
        self._groups = Groups(most_classes)
        self._filled = 0

    @abstractmethod
    def _append(self, number: int, slot: int, row: int) -> None:
        """The class keeps this row of the batch, in a slot that was not its own."""

    @abstractmethod
    def _give_up(self, number: int) -> int:
        """The class loses a sample; its slot."""

    @abstractmethod
    def _replace_own(self, number: int, row: int) -> int:
        """The slot of the class's own in which the row is kept, or -1 to pass it over."""

    def check_stream(self, schema: Schema) -> None:
        check_label(schema, self._label)

    def _place(self, batch: Batch, rows: Indices) -> tuple[Indices, Indices]:
        numbers = self._groups.numbers(labels(batch, self._label)[rows].tolist())
        chosen = zip(numbers, rows.tolist(), strict=True)
        slots = np.array([self._place_one(number, row) for number, row in chosen])
        kept = (slots >= 0).nonzero()[0]
        return slots[kept], rows[kept]

    def _place_one(self, number: int, row: int) -> int:
        groups = self._groups
        if self._filled < self.capacity_samples:
            slot = self._filled
            self._filled += 1
        else:
            size, largest = groups.sizes[number], groups.largest()[0]
            if size and size + 1 >= groups.sizes[largest]:
                return self._replace_own(number, row)
            slot = self._give_up(largest)
            groups.change(largest, -1)
        self._append(number, slot, row)
        groups.change(number, +1)
        return slot

    def _policy_state(self) -> dict[str, Any]:
        return self._groups.state_dict()

    def _load_policy_state(self, state: Mapping[str, Any]) -> None:
        self._groups.load_state_dict(state)
        self._filled = int(self._groups.sizes.sum())
