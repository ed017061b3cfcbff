"""The groups that a memory is shared between: classes or tasks, and who has most of it.

A group is known by its label, any whole number, and gets a number from 0 in order of appearance.
Rows that producers have sent without a label carry some number too (-1 by custom); they are a
group like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field

from insitu.batch import Batch, Column
from insitu.errors import OperatorError
from insitu.sampling import Indices
from insitu.schema import Schema

#: options that policies by class share
LabelOption = Annotated[
    str,
    Field(description="whole-number field with the class of a sample, one number each"),
]
MostClassesOption = Annotated[
    int,
    Field(
        ge=1,
        description="distinct classes that are accepted",
        json_schema_extra={"unit": "classes"},
    ),
]


class Groups:
    """Labels, and how many samples of each are remembered.

    Args:
        most_groups: labels that are accepted.

    Example:
        >>> groups = Groups(10)
        >>> groups.numbers([7, 3, 7])
        [0, 1, 0]
        >>> groups.change(0, +2), groups.change(1, +1), groups.largest()
        (None, None, [0])
    """

    def __init__(self, most_groups: int) -> None:
        self._most_groups = most_groups
        self._number_of: dict[int, int] = {}
        #: group -> samples remembered; room for all that may come
        self.sizes = np.zeros(most_groups, np.int64)
        self._largest: list[int] | None = None

    def __len__(self) -> int:
        return len(self._number_of)

    @property
    def labels(self) -> Sequence[int]:
        """In the order of the groups' numbers."""
        return list(self._number_of)

    def numbers(self, labels: Sequence[int]) -> list[int]:
        """The number of each label's group; new labels become groups."""
        known = self._number_of
        try:
            return [known[label] for label in labels]
        except KeyError:
            return [self._number(label) for label in labels]

    def _number(self, label: int) -> int:
        number = self._number_of.get(label)
        if number is None:
            number = len(self._number_of)
            if number == self._most_groups:
                raise OperatorError(
                    f"label {label} would be class number {number + 1} of the memory",
                    allowed=f"at most most_classes, {self._most_groups}",
                    remedy="is the field named by `label` really a class?",
                )
            self._number_of[label] = number
            self._largest = None
        return number

    def change(self, number: int, by: int) -> None:
        """A group has won or lost samples."""
        self.sizes[number] += by
        self._largest = None

    def largest(self) -> list[int]:
        """The groups of which most samples are remembered."""
        if self._largest is None:
            sizes = self.sizes[: len(self)]
            self._largest = np.flatnonzero(sizes == sizes.max()).tolist()
        return self._largest

    def state_dict(self) -> dict[str, Any]:
        return {
            "labels": torch.tensor(self.labels, dtype=torch.int64),
            "sizes": torch.from_numpy(self.sizes[: len(self)]),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        labels = state["labels"].tolist()
        if len(labels) > self._most_groups:
            raise OperatorError(
                f"the saved memory has {len(labels)} classes",
                allowed=f"at most most_classes, {self._most_groups}",
                consequence="it cannot be resumed",
            )
        self._number_of = {label: number for number, label in enumerate(labels)}
        self.sizes[:] = 0
        self.sizes[: len(labels)] = state["sizes"].cpu().numpy()
        self._largest = None


def tasks(batch: Batch) -> Indices:
    """The index of the task of every row."""
    indices: Indices = batch.provenance.numpy()[:, Column.TASK]
    return indices


def check_label(schema: Schema, field: str) -> None:
    """Refuse a stream whose samples `labels` could not read; raises what that raises."""
    sample = {
        each.name: torch.zeros((1, *each.shape), dtype=getattr(torch, each.dtype))
        for each in schema.fields
    }
    labels(Batch.of(sample), field)


def labels(batch: Batch, field: str) -> Indices:
    """The class of every row, on the CPU.

    Reading a label from a GPU waits until what was queued before is done.

    Raises:
        OperatorError: the field is not there, or is no single whole number a sample.
    """
    tensor = batch.fields.get(field)
    if tensor is None:
        raise OperatorError(
            f"the memory's label field {field!r} is not in the stream",
            allowed=", ".join(batch.fields),
            remedy="set the memory's option `label`, or choose a memory that needs no classes",
        )
    if tensor.is_floating_point() or tensor.is_complex() or tensor.numel() != batch.rows:
        raise OperatorError(
            f"the memory's label field {field!r} is {tensor.dtype} "
            f"{list(tensor.shape[1:])} a sample",
            allowed="one whole number or bool a sample",
        )
    found: Indices = tensor.detach().reshape(-1).to("cpu", torch.int64).numpy()
    return found


def saved_members(members: Sequence[Sequence[int]]) -> torch.Tensor:
    """The slots of all groups, one after the other."""
    return torch.tensor([slot for group in members for slot in group], dtype=torch.int64)


def loaded_members(slots: torch.Tensor, sizes: Indices) -> list[list[int]]:
    """The way back from `saved_members`."""
    return [part.tolist() for part in torch.split(slots.cpu(), sizes.tolist())]
