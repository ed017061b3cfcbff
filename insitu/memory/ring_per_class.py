"""A ring per class: the newest samples of every class.

Chaudhry et al., "On Tiny Episodic Memories in Continual Learning" (2019), section 4, ring buffer:
every class has the same number of slots and overwrites its oldest sample. With one or a few samples
a class it never loses a class, where a reservoir may.

Deviations: the number of classes need not be known. The quota is capacity / classes seen; a class
that appears takes its slots, one at a time, from the oldest samples of the largest classes, and no
slot stays empty, see `insitu.memory.shared_quota`.

What is remembered of a class are its last samples, in order; nothing is drawn at random to decide
it. Rows without a label carry some number too, -1 by custom: they are a class like any other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import torch

from insitu.memory.groups import LabelOption, MostClassesOption, loaded_members, saved_members
from insitu.memory.shared_quota import SharedQuota


class RingPerClass(SharedQuota):
    """Remembers the newest samples of every class, as many of each.

    Example:
        >>> from insitu.batch import Batch
        >>> memory = RingPerClass(4, torch.device("cpu"), torch.Generator().manual_seed(0))
        >>> y = torch.tensor([0, 0, 0, 1, 0, 1, 0])
        >>> memory.add(Batch.of({"y": y, "x": torch.arange(7)}))
        >>> sorted(memory.sample(4).fields["x"].tolist())
        [3, 4, 5, 6]
    """

    def __init__(
        self,
        capacity_samples: int,
        device: torch.device,
        generator: torch.Generator,
        *,
        label: LabelOption = "y",
        most_classes: MostClassesOption = 10_000,
    ) -> None:
        super().__init__(capacity_samples, device, generator, label, most_classes)
        self._rings: dict[int, deque[int]] = {}  # class -> its slots, the oldest sample's first

    def _append(self, number: int, slot: int, row: int) -> None:
        self._rings.setdefault(number, deque()).append(slot)

    def _give_up(self, number: int) -> int:
        return self._rings[number].popleft()

    def _replace_own(self, number: int, row: int) -> int:
        ring = self._rings[number]
        ring.rotate(-1)
        return ring[-1]

    def _policy_state(self) -> dict[str, Any]:
        rings = [list(self._rings.get(number, ())) for number in range(len(self._groups))]
        return {**super()._policy_state(), "slots": saved_members(rings)}

    def _load_policy_state(self, state: Mapping[str, Any]) -> None:
        super()._load_policy_state(state)
        members = loaded_members(state["slots"], self._groups.sizes[: len(self._groups)])
        self._rings = {number: deque(slots) for number, slots in enumerate(members)}


COMPONENT = RingPerClass
