"""The memory contract: keep some of the samples that went by, give a few of them back.

A memory has one writer and belongs to one strategy. A policy is one file that decides, for the
rows of a batch in their order, which slots they take (`_place`); keeping, sampling, provenance
and state are the same for all. Bookkeeping is on the CPU, data on the device of the model.

State dicts hold views of the live tensors, as those of modules do: copy before the next step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from insitu.batch import Batch, Column, SampleFlag
from insitu.errors import OperatorError
from insitu.memory.store import SampleStore
from insitu.sampling import Indices, distinct, uniform

#: a sample that is only measured must not come back as a sample to train on
_NEVER_REMEMBERED = SampleFlag.NO_REPLAY | SampleFlag.EVALUATE


class Memory(ABC):
    """Base of all memories.

    Args:
        capacity_samples: the most that it remembers.
        device: where the data lies.
        generator: of all its random draws; on the CPU.
    """

    def __init__(
        self, capacity_samples: int, device: torch.device, generator: torch.Generator
    ) -> None:
        self.capacity_samples = capacity_samples
        self.device = torch.device(device)
        self._store = SampleStore(capacity_samples, self.device)
        self._generator = generator
        self._length = 0
        self._newest_row = np.zeros(capacity_samples, np.int64)

    def __len__(self) -> int:
        return self._length

    @abstractmethod
    def _place(self, batch: Batch, rows: Indices) -> tuple[Indices, Indices]:
        """The slots of the rows that are kept, in turn, and these rows.

        Slots `[0, len)` are filled; a new one is the next number. A later row may take the slot
        of an earlier one.
        """

    @abstractmethod
    def _policy_state(self) -> dict[str, Any]:
        """What the policy knows besides the samples."""

    @abstractmethod
    def _load_policy_state(self, state: Mapping[str, Any]) -> None:
        """Take it over; called when the samples are there."""

    def add(self, batch: Batch, losses: Tensor | None = None) -> None:
        """Offer the rows of a batch, in order; those flagged NO_REPLAY or EVALUATE are left out.

        Args:
            losses: (rows,) loss per sample, kept beside it; None when unknown.
        """
        rows = self._rows_to_offer(batch)
        if len(rows) == 0:
            return
        slots, rows = self._place(batch, rows)
        count = len(slots)
        if count == 0:
            return
        end = self._length + count
        if slots[0] == self._length and slots[-1] == end - 1:
            # a new slot is the next number, so these are all new and in order: plain copies
            whole = slice(0, count) if count == batch.rows else rows
            self._store.write(slice(self._length, end), batch, whole, losses)
            self._length = end
            return
        slots, rows = self._last_of_each_slot(slots, rows)
        self._store.write(slots, batch, rows, losses)
        if self._length < self.capacity_samples:
            self._length = max(self._length, int(slots.max()) + 1)

    def sample(self, count: int) -> Batch | None:
        """`count` remembered samples, every one equally likely; None when there are none.

        All different, unless more are asked for than there are: then with repetition.
        """
        if count < 1 or self._length == 0:
            return None
        draw = distinct if count <= self._length else uniform
        return self._store.read(draw(self._length, count, self._generator))

    def _rows_to_offer(self, batch: Batch) -> Indices:
        """Numbers of the rows that may be remembered."""
        flags = batch.provenance.numpy()[:, Column.FLAGS]
        if flags.any():
            return np.flatnonzero((flags & _NEVER_REMEMBERED) == 0)
        return np.arange(batch.rows)

    def _last_of_each_slot(self, slots: Indices, rows: Indices) -> tuple[Indices, Indices]:
        """Of several rows for one slot the last one stays."""
        if len(set(slots.tolist())) == len(slots):
            return slots, rows
        self._newest_row[slots] = rows
        last = self._newest_row[slots] == rows
        return slots[last], rows[last]

    def composition(self) -> Mapping[int, int]:
        """Remembered samples by index of their task."""
        tasks = self._store.provenance[: self._length, Column.TASK]
        numbers, counts = torch.unique(tasks, return_counts=True)
        return dict(zip(numbers.tolist(), counts.tolist(), strict=True))

    @property
    def generator(self) -> torch.Generator:
        """Of all its draws; its owner may draw from it too, for what it does to the samples."""
        return self._generator

    @property
    def provenance(self) -> Tensor:
        """(len, len(Column)) int64 on the CPU: where each sample is from."""
        return self._store.provenance[: self._length]

    @property
    def times_replayed(self) -> Tensor:
        """(len,) int64 on the CPU: how often each sample was given back."""
        return self._store.times_replayed[: self._length]

    @property
    def last_loss(self) -> Tensor:
        """(len,) float32 on the device: each sample's loss when it was added, NaN if unknown."""
        return self._store.last_loss[: self._length]

    def state_dict(self) -> dict[str, Any]:
        return {
            "policy": {type(self).__name__: self._policy_state()},
            "samples": self._store.state_dict(self._length),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state; what comes next is bit-identical to the saved run.

        Raises:
            OperatorError: it is of another kind of memory, or too large.
        """
        if set(state) != {"policy", "samples", "generator"}:
            raise OperatorError(
                f"the saved memory has {sorted(state)}", allowed="generator, policy, samples"
            )
        name = type(self).__name__
        if set(state["policy"]) != {name}:
            raise OperatorError(
                f"the saved memory is a {', '.join(state['policy'])}",
                allowed=name,
                consequence="it cannot be resumed",
                remedy="resume with the configuration that it was saved with",
            )
        self._length = self._store.load_state_dict(state["samples"])
        self._load_policy_state(state["policy"][name])
        self._generator.set_state(state["generator"].cpu())
