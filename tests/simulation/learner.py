"""A learner that trains nothing and remembers everything: which rows came, and in which order."""

from __future__ import annotations

from collections.abc import Iterable

from insitu.batch import Column
from insitu.stream.draw import Draw
from insitu_service.learning.probe_inbox import Probe
from simulation.samples import read


class Record:
    """The rows that were drawn for the first time, or taken in as probes; part of a checkpoint."""

    def __init__(self) -> None:
        self.drawn: dict[int, set[int]] = {}  # by life
        self.probed: dict[int, set[int]] = {}
        self._next_probe: dict[str, tuple[int, int]] = {}

    def copy(self) -> Record:
        other = Record()
        other.drawn = {life: set(rows) for life, rows in self.drawn.items()}
        other.probed = {life: set(rows) for life, rows in self.probed.items()}
        other._next_probe = dict(self._next_probe)
        return other

    def train(self, draw: Draw) -> int:
        """Note a batch; every row of it must be its own and new."""
        assert draw.batch is not None
        rows = read(draw.batch.fields["id"].numpy())
        numbers = draw.batch.column(Column.ROW).tolist()
        assert [row for _, row in rows] == numbers, "the provenance is of other rows"
        self._note(rows, self.drawn)
        return len(rows)

    def take_in(self, probes: Iterable[Probe]) -> int:
        """Note held-out rows, but those that are known already, as the examiner does."""
        count = 0
        for probe in probes:
            rows = read(probe.batch.fields["id"].numpy())
            if not rows:
                continue
            epoch, next_row = self._next_probe.get(probe.producer_id, (-1, 0))
            if probe.epoch < epoch:
                continue
            if probe.epoch == epoch:
                rows = [(life, row) for life, row in rows if row >= next_row]
            if rows:
                self._next_probe[probe.producer_id] = probe.epoch, rows[-1][1] + 1
                self._note(rows, self.probed)
                count += len(rows)
        return count

    def holds(self, life: int, row: int) -> bool:
        return row in self.drawn.get(life, ()) or row in self.probed.get(life, ())

    def _note(self, rows: list[tuple[int, int]], among: dict[int, set[int]]) -> None:
        for life, row in rows:
            assert not self.holds(life, row), f"row {row} of life {life} came before: doubled"
            among.setdefault(life, set()).add(row)
