"""A bounded, uniform sample of the rows of every task.

Held-out probes and the samples behind a Fisher information are kept in it. Unlike an episodic
memory, whose capacity is shared by all tasks, it holds up to so many rows of each.

Reservoir sampling: Li, "Reservoir-sampling algorithms of time complexity O(n(1+log(N/n)))" (1994),
algorithm L. After n rows of a task each of them is kept with the same probability capacity / n. How
many rows pass before the next one is kept is drawn when one is kept, so what is not kept costs
nothing, and that is nearly everything in a long task.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from insitu.batch import Batch, Column
from insitu.errors import OperatorError

#: a plain integer, since indexing by an IntEnum is slow
_TASK = int(Column.TASK)


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
        #: number of the next row that will be kept, once it is full; and log W of the algorithm
        self._next = capacity
        self._log_weight = 0.0

    def __len__(self) -> int:
        return min(self.seen, self._capacity)

    def add(self, batch: Batch) -> None:
        """Keep some rows of the batch, as copies."""
        if self.seen >= self._capacity and self.seen + batch.rows <= self._next:
            self.seen += batch.rows
            return
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
        if filling and self.seen + filling == self._capacity:
            self._skip(self._capacity - 1)
        while self._next < self.seen + rows and self.seen + rows > self._capacity:
            slot = int(torch.randint(self._capacity, (), generator=self._generator))
            chosen[slot] = self._next - self.seen
            self._skip(self._next)
        return chosen

    def _skip(self, kept: int) -> None:
        """Draw which row after row `kept` will be kept."""
        draws = torch.rand(2, generator=self._generator, dtype=torch.float64)
        smaller, passed = (1.0 - draws).log().tolist()  # of numbers in (0, 1]
        self._log_weight += smaller / self._capacity
        weight = min(math.exp(self._log_weight), 1.0 - 2**-53)
        self._next = kept + 1 + math.floor(passed / math.log1p(-weight))

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
        return {
            "seen": self.seen,
            "next": self._next,
            "log_weight": self._log_weight,
            "fields": dict(rows.fields),
            "provenance": rows.provenance,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        kept = Batch(state["fields"], state["provenance"], len(state["provenance"]))
        if kept.rows != min(state["seen"], self._capacity):
            raise OperatorError(
                f"the state keeps {kept.rows} samples of a task that had {state['seen']}",
                allowed=f"{min(state['seen'], self._capacity)}, for a capacity of {self._capacity}",
                remedy="resume with the number of samples that the checkpoint was written with",
            )
        self._fields = {}
        if kept.rows:
            self._allocate(kept)
            self._provenance[: kept.rows] = kept.provenance
            for name, store in self._fields.items():
                store[: kept.rows] = kept.fields[name]
        self.seen, self._next = int(state["seen"]), int(state["next"])
        self._log_weight = float(state["log_weight"])


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
        # a list, and not an array: few rows are counted in a fraction of the time
        tasks = batch.provenance.numpy()[:, _TASK].tolist()
        if tasks.count(tasks[0]) == len(tasks):
            self._add(tasks[0], batch)
            return
        column = batch.column(Column.TASK)
        for task in sorted(set(tasks)):
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
