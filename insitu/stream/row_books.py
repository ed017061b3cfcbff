"""The books on rows: which batches are trained, and proof that each row was drawn exactly once.

Every row has a *place*: the number of the record that brought it (see `insitu.stream.log`; a
buffer without a log counts its own batches), and its row in it. Whenever rows are drawn for the
first time, or dropped, their places come off the books of their batch; a batch without any left
is trained as soon as the step that drew the last of them is over.

The *audit* is a count and a sum over the places (`insitu.stream.audit`), in any order. It is
part of every checkpoint, so that with the log it can be shown that what was accepted is what
was drawn, dropped or pending, each row once.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from insitu.stream.audit import row_sum
from insitu.stream.stamp import Position

Places = npt.NDArray[np.int64]

_MASK = (1 << 64) - 1
#: entries of a producer's queue, beyond twice those that are needed, before it is cleared up
_SLACK = 64


@dataclass(slots=True)
class _Batch:
    """A batch of which rows are outstanding."""

    producer_id: str
    epoch: int
    seq: int
    rows: int


class RowBooks:
    """Outstanding rows by batch, trained positions by producer, and the audit.

    Called under the buffer's lock.

    Example:
        >>> books = RowBooks()
        >>> books.entered(1, "rank-0", 7, 1, rows=2)
        >>> books.drawn(np.array([[1, 0], [1, 1]]))
        >>> books.trained("rank-0", 7)  # its step is under way
        0
        >>> books.stepped()
        >>> books.trained("rank-0", 7), books.audit["drawn_rows"]
        (1, 2)
    """

    def __init__(self) -> None:
        self._batches: dict[int, _Batch] = {}
        self._queues: dict[str, deque[int]] = {}  # records by producer, oldest first
        self._newest: dict[str, tuple[int, int]] = {}  # producer -> (epoch, seq)
        self._under_way: Counter[int] = Counter()
        self.audit: dict[str, int] = {
            "drawn_rows": 0,
            "drawn_sum": 0,
            "dropped_rows": 0,
            "dropped_sum": 0,
        }

    def entered(self, record: int, producer_id: str, epoch: int, seq: int, *, rows: int) -> None:
        """A batch brought so many rows, or none: then only the position moves."""
        self._newest[producer_id] = epoch, seq
        if rows == 0:
            return
        self._batches[record] = _Batch(producer_id, epoch, seq, rows)
        queue = self._queues.setdefault(producer_id, deque())
        queue.append(record)
        if len(queue) > 2 * len(self._batches) + _SLACK:
            self._queues[producer_id] = deque(r for r in queue if r in self._batches)

    def drawn(self, places: Places) -> None:
        """Rows, (rows, 2), were drawn for the first time; `stepped` tells when that is over."""
        self._count("drawn", places)
        self._under_way.update(places[:, 0].tolist())

    def dropped(self, places: Places) -> None:
        """Rows were given up."""
        self._count("dropped", places)
        self._take_off(Counter(places[:, 0].tolist()))

    def stepped(self) -> None:
        """The steps on all that was drawn so far are over."""
        if self._under_way:
            self._take_off(self._under_way)
            self._under_way = Counter()

    def trained(self, producer_id: str, epoch: int) -> int:
        """The newest batch of this life of a producer with all before it trained; 0 for none."""
        queue = self._queues.get(producer_id)
        while queue and queue[0] not in self._batches:
            queue.popleft()
        if queue:
            oldest = self._batches[queue[0]]
            return oldest.seq - 1 if oldest.epoch == epoch else 0
        newest = self._newest.get(producer_id, (epoch, 0))
        return newest[1] if newest[0] == epoch else 0

    def state_dict(self, producers: Sequence[str]) -> dict[str, Any]:
        """The audit, and (batches, 4) record, index of the producer, epoch, seq of what is due."""
        index = {producer_id: i for i, producer_id in enumerate(producers)}
        rows = [(n, index[b.producer_id], b.epoch, b.seq) for n, b in self._batches.items()]
        batches = torch.tensor(sorted(rows), dtype=torch.int64).reshape(-1, 4)
        return {"audit": dict(self.audit), "batches": batches}

    def load_state_dict(
        self, state: Mapping[str, Any], unseen: Places, positions: Mapping[str, Position]
    ) -> None:
        """Take over what `state_dict` told.

        Args:
            state: with the ids of the `producers` by index, as in the buffer's.
            unseen: places of all rows that were not drawn yet.
            positions: of the producers.
        """
        self.__init__()  # type: ignore[misc]
        rows = Counter(unseen[:, 0].tolist())
        for record, producer, epoch, seq in state["batches"].tolist():
            if rows[record]:
                producer_id = state["producers"][producer]
                self.entered(record, producer_id, epoch, seq, rows=rows[record])
        self._newest = {name: (each.epoch, each.seq) for name, each in positions.items()}
        self.audit = dict(state["audit"])

    def _count(self, what: str, places: Places) -> None:
        self.audit[f"{what}_rows"] += len(places)
        added = row_sum(places[:, 0], places[:, 1])
        self.audit[f"{what}_sum"] = (self.audit[f"{what}_sum"] + added) & _MASK

    def _take_off(self, rows: Counter[int]) -> None:
        for record, count in rows.items():
            batch = self._batches[record]
            batch.rows -= count
            if batch.rows == 0:
                del self._batches[record]
