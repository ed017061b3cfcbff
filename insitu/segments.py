"""Segments: a task of the producers, cut at boundaries that they did not tell of.

Strategies, memories and the evaluation go by the index of a task. Where a boundary is detected, or
declared by command, the rows that follow belong to a new task for them: the *segment* (task of the
producer, number of the segment) has an index of its own. While no boundary was declared, every
index is the producer's task itself. After the first one, further indices are given in the order in
which segments have their first rows. Segments are named `flow`, `flow#2`, `flow#3`.

Tasks may run side by side. A boundary ends those that had rows since the last one; a task without
any goes on as it was. A producer's own end of a task ends its newest segment, and when the task
comes back, so does that segment.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from insitu.batch import Batch, Column
from insitu.errors import OperatorError

_TASK = int(Column.TASK)


@dataclass(frozen=True)
class EndedTask:
    """A task, or a segment of one, that ended at a boundary.

    Args:
        task: its index, as strategies know it.
        samples: fresh rows of it since the last boundary.
    """

    task: int
    samples: int


class Segments:
    """From the tasks of the producers to indices of segments.

    Example:
        >>> import torch
        >>> segments = Segments()
        >>> batch = Batch.of({"x": torch.zeros(3, 1)}, task=0)
        >>> segments.relabel(batch).column(Column.TASK)
        tensor([0, 0, 0])
        >>> segments.count(batch)
        >>> segments.declare_boundary()
        (EndedTask(task=0, samples=3),)
        >>> segments.relabel(batch).column(Column.TASK)
        tensor([1, 1, 1])
        >>> segments.names(["flow"])
        ('flow', 'flow#2')
    """

    def __init__(self) -> None:
        #: by index: the producers' task and the number of its segment; empty before a boundary
        self._keys: list[tuple[int, int]] = []
        self._index: dict[tuple[int, int], int] = {}
        self._segment: dict[int, int] = {}  # task -> the segment that its next rows are in
        self._rows: dict[int, int] = {}  # task -> its rows since the last boundary
        self._most = -1  # the largest task so far
        self.boundaries = 0

    def relabel(self, batch: Batch) -> Batch:
        """A batch of the stream with the indices of the rows' segments as their tasks.

        The batch itself is given back while no boundary was declared.
        """
        if not self.boundaries:
            return batch
        tasks = batch.provenance[: batch.fresh_rows, _TASK]
        indices = {task: self.index_of(task) for task in _counts(batch)}
        if all(task == index for task, index in indices.items()):
            return batch
        provenance = batch.provenance.clone()
        fresh = provenance[: batch.fresh_rows, _TASK]
        for task, index in indices.items():
            fresh[tasks == task] = index
        return Batch(batch.fields, provenance, batch.fresh_rows)

    def count(self, batch: Batch) -> None:
        """Take note of the fresh rows of a batch of the stream, as it came, once it is trained."""
        for task, rows in _counts(batch).items():
            self._rows[task] = self._rows.get(task, 0) + rows
            if task > self._most:
                self._most = task

    def declare_boundary(self) -> tuple[EndedTask, ...]:
        """Cut here: what had rows since the last boundary ends; nothing, where nothing had."""
        present = [task for task, rows in self._rows.items() if rows]
        if not present:
            return ()
        if not self.boundaries:
            self._leave_identity()
        self.boundaries += 1
        ended = tuple(EndedTask(self.index_of(task), self._rows[task]) for task in present)
        for task in present:
            self._segment[task] = self._segment.get(task, 0) + 1
        self._rows = {}
        return ended

    def _leave_identity(self) -> None:
        """From the first boundary on indices are given one by one, behind those in use."""
        self._keys = [(task, 0) for task in range(self._most + 1)]
        self._index = {key: index for index, key in enumerate(self._keys)}

    def index_of(self, task: int) -> int:
        """Index of the segment that the next rows of a producers' task belong to."""
        if task > self._most:
            self._most = task
        if not self._keys:
            return task
        key = task, self._segment.get(task, 0)
        if key not in self._index:
            self._index[key] = len(self._keys)
            self._keys.append(key)
        return self._index[key]

    def end(self, task: int) -> int:
        """A producers' task has ended: the index of its newest segment that had rows."""
        self._rows.pop(task, None)
        if not self.boundaries:
            return task
        segment = self._segment.get(task, 0)
        while segment > 0 and (task, segment) not in self._index:
            segment -= 1
        key = task, segment
        return self._index[key] if key in self._index else self.index_of(task)

    def names(self, tasks: Sequence[str]) -> tuple[str, ...]:
        """Names by index, from those of the producers' tasks; from any thread."""
        if not self.boundaries:
            return tuple(tasks)
        found: list[str] = []
        for task, segment in list(self._keys):
            name = tasks[task] if task < len(tasks) else str(task)
            if segment:
                name = f"{name}#{segment + 1}"
                while name in tasks:  # a producer calls a task of its own so
                    name = name.replace("#", "##", 1)
            found.append(name)
        return tuple(found)

    def state_dict(self) -> dict[str, Any]:
        return {
            "keys": [list(key) for key in self._keys],
            "segments": [list(pair) for pair in self._segment.items()],
            "rows": [list(pair) for pair in self._rows.items()],
            "most": self._most,
            "boundaries": self.boundaries,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state; an unknown or missing key is refused by name."""
        if set(state) != set(self.state_dict()):
            raise OperatorError(
                f"the saved segments hold {', '.join(sorted(state)) or 'nothing'}",
                allowed=", ".join(sorted(self.state_dict())),
            )
        self._keys = [(int(task), int(segment)) for task, segment in state["keys"]]
        self._index = {key: index for index, key in enumerate(self._keys)}
        self._segment = {int(task): int(segment) for task, segment in state["segments"]}
        self._rows = {int(task): int(rows) for task, rows in state["rows"]}
        self._most = int(state["most"])
        self.boundaries = int(state["boundaries"])


def _counts(batch: Batch) -> dict[int, int]:
    """Fresh rows by task."""
    tasks = batch.fresh_tasks()
    if not tasks:
        return {}
    if tasks.count(tasks[0]) == len(tasks):
        return {tasks[0]: len(tasks)}
    return dict(Counter(tasks))
