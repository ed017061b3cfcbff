"""A training batch: named tensors with one row a sample, and where every row came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum

import torch
from torch import Tensor


class Column(IntEnum):
    """The columns of `Batch.provenance`, an int64 tensor on the CPU with one row a sample."""

    PRODUCER = 0  # index of the producer in the service's list of producers
    ROW = 1  # running number of the sample at its producer, from 0
    PRODUCED_AT_NS = 2  # wall clock of the producer at push, nanoseconds since 1970
    TASK = 3  # index of the task's name, see `insitu.tasks`
    VISIT = 4  # number of the visit to that task, rising in order of arrival
    SAMPLE_ID = 5  # the producer's own id of the sample; ROW where it gave none
    FLAGS = 6  # bits of `SampleFlag`


class SampleFlag(IntEnum):
    """What a producer may say of a sample, as bits."""

    EVALUATE = 1  # a held-out probe: measured, never trained
    NO_REPLAY = 2  # trained once, never remembered


#: a plain integer, since indexing by an IntEnum is slow
_TASK = int(Column.TASK)


@dataclass(frozen=True)
class Batch:
    """Rows of named tensors. Rows `[0, fresh_rows)` come from the stream, the rest from memory.

    Args:
        fields: name -> tensor of shape (rows, *shape of the field). May be strided views of
            one block of memory; nobody writes to them.
        provenance: (rows, len(Column)) int64 on the CPU.
        fresh_rows: how many rows, from the first on, are from the stream.

    Example:
        >>> batch = Batch.of({"x": torch.zeros(4, 3)})
        >>> batch.rows, batch.fresh_rows, batch.fresh().rows
        (4, 4, 4)
    """

    fields: Mapping[str, Tensor]
    provenance: Tensor
    fresh_rows: int

    @classmethod
    def of(cls, fields: Mapping[str, Tensor], *, task: int = 0, visit: int = 0) -> Batch:
        """A fresh batch from plain tensors, for use without a service."""
        rows = len(next(iter(fields.values())))
        provenance = torch.zeros(rows, len(Column), dtype=torch.int64)
        provenance[:, Column.ROW] = torch.arange(rows)
        provenance[:, Column.SAMPLE_ID] = torch.arange(rows)
        provenance[:, Column.TASK] = task
        provenance[:, Column.VISIT] = visit
        return cls(fields, provenance, rows)

    @property
    def rows(self) -> int:
        return len(self.provenance)

    @property
    def replayed_rows(self) -> int:
        return self.rows - self.fresh_rows

    def fresh(self) -> Batch:
        """The rows from the stream, as views."""
        if self.fresh_rows == self.rows:
            return self
        return self.select(slice(0, self.fresh_rows), self.fresh_rows)

    def select(self, index: slice | Tensor, fresh_rows: int) -> Batch:
        """Some rows: views for a slice, copies for an index tensor (int64 or bool, on the CPU)."""
        fields = {
            name: t[index if isinstance(index, slice) else index.to(t.device)]
            for name, t in self.fields.items()
        }
        return Batch(fields, self.provenance[index], fresh_rows)

    def joined(self, remembered: Batch) -> Batch:
        """This batch with the rows of `remembered` behind its own, which count as replayed."""
        fields = {
            name: torch.cat((tensor, remembered.fields[name].to(tensor.device)))
            for name, tensor in self.fields.items()
        }
        provenance = torch.cat((self.provenance, remembered.provenance))
        return Batch(fields, provenance, self.fresh_rows)

    def with_fields(self, fields: Mapping[str, Tensor]) -> Batch:
        return replace(self, fields=fields)

    def column(self, column: Column) -> Tensor:
        return self.provenance[:, int(column)]  # indexing by an IntEnum is slow

    def fresh_tasks(self) -> list[int]:
        """The task of every row from the stream; in a step faster than a tensor of so few."""
        tasks: list[int] = self.provenance.numpy()[: self.fresh_rows, _TASK].tolist()
        return tasks
