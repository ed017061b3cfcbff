"""The memory contract: keep some of the samples that went by, give a few of them back.

A memory has one writer and belongs to one strategy. A policy is one file that decides, for the
rows of a batch in their order, which slots they take (`_place`); keeping, sampling, provenance
and state are the same for all. Bookkeeping is on the CPU; data is on the device of the model, or
where `keep_in` says.

In a step the owner draws with `sample` (or with `draw`, `read` and `give_back`, where it looks at
more than it trains), after the update it tells the losses of what it drew with `update_losses`,
then it offers the fresh rows with `add`. Between these calls the slots of `last_sampled` hold what
was drawn.

State dicts hold views of the live tensors, as those of modules do: copy before the next step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from insitu.batch import Batch, Column, SampleFlag
from insitu.errors import InternalError, OperatorError
from insitu.memory.composition import Contents, counted
from insitu.memory.store import SampleStore
from insitu.sampling import Indices, distinct, uniform
from insitu.schema import Schema

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
        #: samples that were offered so far, those that may never be remembered not counted
        self.offered_samples = 0
        #: the slots of the newest `sample` or `give_back`, in the order of its rows
        self.last_sampled: Indices = np.zeros(0, np.int64)

    def keep_in(self, store: SampleStore) -> None:
        """Keep samples in this store; before the first sample."""
        if self._length or store.capacity_samples != self.capacity_samples:
            raise InternalError(
                f"a memory with {self._length} of {self.capacity_samples} samples was to be moved "
                f"into a store of {store.capacity_samples}"
            )
        self._store = store

    def __len__(self) -> int:
        return self._length

    @abstractmethod
    def _place(self, batch: Batch, rows: Indices) -> tuple[Indices, Indices]:
        """The slots of the rows that are kept, in turn, and these rows.

        Slots `[0, len)` are filled; a new one is the next number. A later row may take the slot
        of an earlier one.
        """

    def check_stream(self, schema: Schema) -> None:  # noqa: B027
        """Refuse a stream that the policy cannot read, before the first sample.

        Raises:
            OperatorError: a field that it needs is not there, or of another kind.
        """

    def _policy_state(self) -> dict[str, Any]:
        """What the policy knows besides the samples."""
        return {}

    def _load_policy_state(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Take it over; its keys are ours, and the samples are there."""

    def add(self, batch: Batch, losses: Tensor | None = None) -> None:
        """Offer the rows of a batch, in order; those flagged NO_REPLAY or EVALUATE are left out.

        Args:
            losses: (rows,) loss per sample, kept beside it; None when unknown.
        """
        rows = self._rows_to_offer(batch)
        if len(rows) == 0:
            return
        self._store.room.prepare(batch.fields)
        slots, kept = self._place(batch, rows)
        self.offered_samples += len(rows)
        if len(slots):
            self._remember(batch, slots, kept, losses)

    def _remember(self, batch: Batch, slots: Indices, rows: Indices, losses: Tensor | None) -> None:
        end = self._length + len(slots)
        if slots[0] == self._length and slots[-1] == end - 1:
            # a new slot is the next number, so these are all new and in order: plain copies
            whole = slice(0, len(slots)) if len(slots) == batch.rows else rows
            new = slice(self._length, end)
            self._store.write(new, batch, whole, losses, self.offered_samples)
            self._length = end
        else:
            slots, rows = self._last_of_each_slot(slots, rows)
            self._store.write(slots, batch, rows, losses, self.offered_samples)
            if self._length < self.capacity_samples:
                self._length = max(self._length, int(slots.max()) + 1)
        self._remembered(slots, rows, losses)

    def _remembered(self, slots: Indices, rows: Indices, losses: Tensor | None) -> None:  # noqa: B027
        """Rows of the batch are now in these slots; `losses` are those of the whole batch."""

    def sample(self, count: int) -> Batch | None:
        """`count` remembered samples, every one equally likely; None when there are none.

        All different, unless more are asked for than there are: then with repetition.
        """
        slots = self.draw(count)
        return self.give_back(slots) if len(slots) else None

    def draw(self, count: int) -> Indices:
        """The slots of `count` samples, drawn as `sample` does; none when there are none."""
        if count < 1 or self._length == 0:
            return np.zeros(0, np.int64)
        choose = distinct if count <= self._length else uniform
        return choose(self._length, count, self._generator)

    def read(self, slots: Indices) -> Batch:
        """The samples of some slots, copied: to look at, not counted as replayed."""
        return self._store.read(slots)

    def give_back(self, slots: Indices) -> Batch:
        """The samples of some slots, copied: to train on, counted as replayed."""
        self._store.count_replayed(slots)
        self.last_sampled = slots
        return self._store.read(slots)

    def update_losses(self, slots: Indices, losses: Tensor) -> None:
        """Samples in memory were seen again; for policies that go by what samples cost.

        Args:
            slots: which, usually `last_sampled`.
            losses: (len(slots),) loss per sample. Of a slot that is named twice any one counts.
        """
        if len(slots) != len(losses):
            raise InternalError(f"{len(losses)} losses came for {len(slots)} remembered samples")
        if len(slots):
            self._store.write_losses(slots, losses)
            self._losses_told(slots, losses)

    def _losses_told(self, slots: Indices, losses: Tensor) -> None:  # noqa: B027
        """What `update_losses` has written into the store."""

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
        return counted(self.provenance[:, Column.TASK].numpy())

    def contents(self) -> Contents:
        """What is known of all samples, for `insitu.memory.composition`; not for the step."""
        store, length = self._store, self._length
        return Contents(
            store.provenance[:length].numpy(),
            self.offered_samples - store.offered_before[:length].numpy(),
            store.classes[:length].cpu().numpy() if store.has_classes else None,
        )

    def count_checkpoints_by(self, written: Callable[[], int]) -> None:
        """Let a memory on disk know how many checkpoints were written, see `DiskRoom`."""
        self._store.room.count_checkpoints_by(written)

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
        """(len,) float32 on the device: each sample's loss when last seen, NaN if unknown."""
        return self._store.last_loss[: self._length]

    def state_dict(self) -> dict[str, Any]:
        return {
            "policy": {type(self).__name__: self._policy_state()},
            "samples": self._store.state_dict(self._length),
            "generator": self._generator.get_state(),
            "offered_samples": self.offered_samples,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state; what comes next is bit-identical to the saved run.

        Raises:
            OperatorError: it is of another kind of memory, or too large.
        """
        wanted = {"generator", "offered_samples", "policy", "samples"}
        if set(state) != wanted:
            raise OperatorError(
                f"the saved memory has {', '.join(sorted(state))}",
                allowed=", ".join(sorted(wanted)),
            )
        name = type(self).__name__
        if set(state["policy"]) != {name}:
            raise OperatorError(
                f"the saved memory is a {', '.join(state['policy'])}",
                allowed=name,
                consequence="it cannot be resumed",
                remedy="resume with the configuration that it was saved with",
            )
        policy = state["policy"][name]
        if set(policy) != set(self._policy_state()):
            raise OperatorError(
                f"the saved {name} memory has {', '.join(sorted(policy)) or 'nothing'}",
                allowed=", ".join(sorted(self._policy_state())) or "nothing",
            )
        self._length = self._store.load_state_dict(state["samples"])
        self.offered_samples = int(state["offered_samples"])
        self.last_sampled = np.zeros(0, np.int64)
        self._load_policy_state(policy)
        self._generator.set_state(state["generator"].cpu())
