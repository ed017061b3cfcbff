"""A bounded, uniform sample of the rows of every task.

Held-out probes and the samples behind a Fisher information are kept in it. Unlike an episodic
memory, whose capacity is shared by all tasks, it holds up to so many rows of each.

Reservoir sampling: Vitter, "Random sampling with a reservoir" (1985), algorithm R. After n rows
of a task each of them is kept with the same probability capacity / n.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from insitu.batch import Batch, Column
from insitu.errors import OperatorError


class Reservoir:
    """Up to `capacity` rows out of all that were added, each with the same chance.

    Args:
        capacity: rows to keep, 1 or more.
        generator: draws which; on the CPU.
    """

    def __init__(self, capacity: int, generator: torch.Generator) -> None:
        self._capacity = capacity
        self._generator = generator
        self._fields: dict[str, Tensor] = {}
        self._provenance = torch.empty(0, len(Column), dtype=torch.int64)
        #: rows that were added so far
        self.seen = 0

    def __len__(self) -> int:
        return min(self.seen, self._capacity)

    def add(self, batch: Batch) -> None:
        """Keep some rows of the batch, as copies."""
        if not self._fields:
            self._allocate(batch)
        chosen = self._choose(batch.rows)
        self.seen += batch.rows
        if not chosen:
            return
        slots = torch.tensor(list(chosen.keys()), dtype=torch.int64)
        rows = torch.tensor(list(chosen.values()), dtype=torch.int64)
        self._provenance.index_copy_(0, slots, batch.provenance[rows])
        for name, store in self._fields.items():
            values = batch.fields[name].detach()
            taken = values.index_select(0, rows.to(values.device))
            store.index_copy_(0, slots.to(store.device), taken.to(store.device))

    def rows(self) -> Batch:
        """All kept rows, as views: copy them before the next `add`."""
        fields = {name: store[: len(self)] for name, store in self._fields.items()}
        return Batch(fields, self._provenance[: len(self)], len(self))

    def _choose(self, rows: int) -> dict[int, int]:
        """Slot -> row that ends there; a later row of the batch overwrites an earlier one."""
        filling = min(max(self._capacity - self.seen, 0), rows)
        chosen = {self.seen + row: row for row in range(filling)}
        if filling == rows:
            return chosen
        seen_with_row = np.arange(self.seen + filling + 1, self.seen + rows + 1)
        draws = torch.rand(rows - filling, generator=self._generator, dtype=torch.float64)
        slots = (draws.numpy() * seen_with_row).astype(np.int64)
        kept = np.flatnonzero(slots < self._capacity)
        chosen.update(zip(slots[kept].tolist(), (kept + filling).tolist(), strict=True))
        return chosen

    def _allocate(self, batch: Batch) -> None:
        self._provenance = torch.zeros(self._capacity, len(Column), dtype=torch.int64)
        self._fields = {
            name: torch.zeros(
                (self._capacity, *tensor.shape[1:]), dtype=tensor.dtype, device=tensor.device
            )
            for name, tensor in batch.fields.items()
        }

    def state_dict(self) -> dict[str, Any]:
        rows = self.rows()
        return {"seen": self.seen, "fields": dict(rows.fields), "provenance": rows.provenance}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        kept = Batch(state["fields"], state["provenance"], len(state["provenance"]))
        if kept.rows != min(state["seen"], self._capacity):
            raise OperatorError(
                f"the state keeps {kept.rows} samples of a task that had {state['seen']}",
                allowed=f"{min(state['seen'], self._capacity)}, for a capacity of {self._capacity}",
                remedy="resume with the number of samples that the checkpoint was written with",
            )
        self.seen = 0
        self._fields = {}
        if kept.rows:
            self.add(kept)
        self.seen = int(state["seen"])


class TaskSamples:
    """A reservoir for every task, made when its first row arrives.

    Args:
        samples_per_task: rows to keep of each task, 1 or more.
        generator: draws which; on the CPU.

    Example:
        >>> samples = TaskSamples(2, torch.Generator().manual_seed(0))
        >>> samples.add(Batch.of({"x": torch.zeros(9, 1)}, task=4))
        >>> samples.tasks(), samples.rows(4).rows, samples.rows(5)
        ([4], 2, None)
    """

    def __init__(self, samples_per_task: int, generator: torch.Generator) -> None:
        self._samples_per_task = samples_per_task
        self._generator = generator
        self._reservoirs: dict[int, Reservoir] = {}

    def add(self, batch: Batch) -> None:
        """Keep some rows of the batch under their tasks, as copies."""
        if batch.rows == 0:
            return
        column = batch.column(Column.TASK)
        tasks = column.numpy()
        if (tasks == tasks[0]).all():
            self._add(int(tasks[0]), batch)
            return
        for task in np.unique(tasks).tolist():
            self._add(task, batch.select(column == task, 0))

    def _add(self, task: int, rows: Batch) -> None:
        if task not in self._reservoirs:
            self._reservoirs[task] = Reservoir(self._samples_per_task, self._generator)
        self._reservoirs[task].add(rows)

    def tasks(self) -> list[int]:
        """The tasks with rows, in the order of their first."""
        return list(self._reservoirs)

    def rows(self, task: int) -> Batch | None:
        """The rows of a task, as views, or None."""
        return self._reservoirs[task].rows() if task in self._reservoirs else None

    def counts(self) -> dict[int, int]:
        """Task -> rows kept."""
        return {task: len(reservoir) for task, reservoir in self._reservoirs.items()}

    def forget(self, task: int) -> None:
        """Drop the rows of a task."""
        self._reservoirs.pop(task, None)

    def state_dict(self) -> dict[str, Any]:
        """Tensors are the live ones: copy them before the next `add`."""
        return {
            "tasks": [
                {"task": task, **reservoir.state_dict()}
                for task, reservoir in self._reservoirs.items()
            ],
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._reservoirs = {}
        for saved in state["tasks"]:
            reservoir = Reservoir(self._samples_per_task, self._generator)
            reservoir.load_state_dict(saved)
            self._reservoirs[int(saved["task"])] = reservoir
        self._generator.set_state(state["generator"].cpu())
