"""Class-balancing reservoir sampling: rare classes keep their place beside frequent ones.

Chrysakis and Moens, "Online Continual Learning from Imbalanced Data", ICML 2020, algorithm 1
(CBRS). A class is *full* from the moment at which it is a largest one in a full memory.

    memory not full            keep
    class c not full           replace a uniform sample of a largest class
    class c full               with probability m_c / n_c replace a uniform sample of c itself,
                               else pass over

where m_c samples of class c are in the memory and n_c were offered so far, this one included.

Deviations: where several classes are the largest, one of them is taken at random. With
`label=None` the classes are the tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field

from insitu.batch import Batch, Column
from insitu.errors import OperatorError
from insitu.memory.base import Memory
from insitu.sampling import Indices


class ClassBalanced(Memory):
    """Remembers about as many samples of every class, each class by a reservoir of its own.

    Example:
        >>> memory = ClassBalanced(4, torch.device("cpu"), torch.Generator().manual_seed(0))
        >>> memory.add(Batch.of({"y": torch.tensor([0] * 90 + [1] * 2)}))
        >>> sorted(memory.sample(4).fields["y"].tolist())
        [0, 0, 1, 1]
    """

    def __init__(
        self,
        capacity_samples: int,
        device: torch.device,
        generator: torch.Generator,
        *,
        label: Annotated[
            str | None,
            Field(
                description="whole-number field with the class of a sample, one number each; "
                "null balances the tasks"
            ),
        ] = "y",
        most_classes: Annotated[
            int,
            Field(
                ge=1,
                description="distinct classes that are accepted",
                json_schema_extra={"unit": "classes"},
            ),
        ] = 10_000,
    ) -> None:
        super().__init__(capacity_samples, device, generator)
        self._label = label
        self._most_classes = most_classes
        self._class_of: dict[int, int] = {}  # label -> number of the class
        self._slots: list[list[int]] = []  # class -> its slots in the memory
        self._sizes = np.zeros(most_classes, np.int64)  # class -> len of that
        self._offered = np.zeros(most_classes, np.int64)
        self._full = np.zeros(most_classes, np.bool_)
        self._filled = 0

    def _place(self, batch: Batch, rows: Indices) -> tuple[Indices, Indices]:
        labels = self._labels(batch)[rows].tolist()
        draws = torch.rand(len(rows), 3, dtype=torch.float64, generator=self._generator).tolist()
        classes = [self._class_number(label) for label in labels]
        slots = np.array([self._place_one(c, d) for c, d in zip(classes, draws, strict=True)])
        kept = (slots >= 0).nonzero()[0]
        return slots[kept], rows[kept]

    def _place_one(self, number: int, draws: list[float]) -> int:
        self._offered[number] += 1
        if self._filled < self.capacity_samples:
            slot = self._filled
            self._filled += 1
            self._slots[number].append(slot)
            self._sizes[number] += 1
            return slot
        sizes = self._sizes[: len(self._slots)]
        largest = np.flatnonzero(sizes == sizes.max())
        self._full[largest] = True
        if self._full[number]:
            return self._replace_own(number, draws)
        victim = int(largest[int(draws[0] * len(largest))])
        slots = self._slots[victim]
        place = int(draws[1] * len(slots))
        slot, slots[place] = slots[place], slots[-1]
        slots.pop()
        self._slots[number].append(slot)
        self._sizes[victim] -= 1
        self._sizes[number] += 1
        return slot

    def _replace_own(self, number: int, draws: list[float]) -> int:
        slots = self._slots[number]
        if draws[0] * self._offered[number] >= len(slots):
            return -1
        return slots[int(draws[1] * len(slots))]

    def _class_number(self, label: int) -> int:
        number = self._class_of.get(label)
        if number is None:
            number = len(self._class_of)
            if number == self._most_classes:
                raise OperatorError(
                    f"label {label} would be class number {number + 1} of the memory",
                    allowed=f"at most most_classes, {self._most_classes}",
                    remedy="is the field named by `label` really a class?",
                )
            self._class_of[label] = number
            self._slots.append([])
        return number

    def _labels(self, batch: Batch) -> Indices:
        """One label a row, on the CPU.

        Reading a label from a device waits until it has arrived there, which it has long before
        the update is done, so call `add` after the step.
        """
        if self._label is None:
            tasks: Indices = batch.provenance[:, Column.TASK].numpy()
            return tasks
        tensor = batch.fields.get(self._label)
        if tensor is None:
            raise OperatorError(
                f"the class-balanced memory's label field {self._label!r} is not in the stream",
                allowed=", ".join(batch.fields),
            )
        if tensor.is_floating_point() or tensor.is_complex() or tensor.numel() != batch.rows:
            raise OperatorError(
                f"the class-balanced memory's label field {self._label!r} is {tensor.dtype} "
                f"{list(tensor.shape[1:])} a sample",
                allowed="one whole number or bool a sample",
            )
        labels: Indices = tensor.detach().reshape(-1).to("cpu", torch.int64).numpy()
        return labels

    def _policy_state(self) -> dict[str, Any]:
        classes = len(self._class_of)
        slots = [slot for members in self._slots for slot in members]
        return {
            "labels": torch.tensor(list(self._class_of), dtype=torch.int64),
            "slots": torch.tensor(slots, dtype=torch.int64),
            "sizes": torch.from_numpy(self._sizes[:classes]),
            "offered": torch.from_numpy(self._offered[:classes]),
            "full": torch.from_numpy(self._full[:classes]),
        }

    def _load_policy_state(self, state: Mapping[str, Any]) -> None:
        wanted = {"labels", "slots", "sizes", "offered", "full"}
        if set(state) != wanted or len(state["labels"]) > self._most_classes:
            raise OperatorError(
                f"the saved class-balanced memory has {sorted(state)} and "
                f"{len(state.get('labels', ()))} classes",
                allowed=f"{', '.join(sorted(wanted))}; at most {self._most_classes} classes",
            )
        self._class_of = {label: i for i, label in enumerate(state["labels"].tolist())}
        classes = len(self._class_of)
        for own, key in ((self._sizes, "sizes"), (self._offered, "offered"), (self._full, "full")):
            own[:] = 0
            own[:classes] = state[key].cpu().numpy()
        sizes = self._sizes[:classes].tolist()
        self._slots = [part.tolist() for part in torch.split(state["slots"], sizes)]
        self._filled = sum(sizes)


COMPONENT = ClassBalanced
