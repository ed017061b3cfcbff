"""The books: produced = trained + pending + dropped + quarantined + lost, per producer, exactly.

Four witnesses that know nothing of each other: what the producers wrote down before they pushed,
the service's own counts, the sample ids of every step that is in the weights, and which rows were
made to be quarantined. Rows that none of them can place are what this harness looks for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from chaos.rows import ROWS_OF_ONE, is_bad
from chaos.seen import Seen
from insitu.wire.rows import Array


@dataclass(frozen=True)
class ProducerBooks:
    """One producer's rows, by what became of them.

    Args:
        produced: rows in its ledger.
        trained: of these, in the weights.
        quarantined: of these, made to be refused, and not trained.
        elsewhere: of these, in neither: pending, dropped or lost.
        doubled: trained more than once.
        strange: trained, and never produced, or made to be refused.
    """

    produced: int
    trained: int
    quarantined: int
    elsewhere: int
    doubled: int
    strange: int


@dataclass(frozen=True)
class Books:
    """The books of all producers at one moment."""

    producers: Mapping[int, ProducerBooks]

    @classmethod
    def of(cls, produced: Mapping[int, int], seen: Seen, *, with_bad: bool = True) -> Books:
        """From how many rows each producer made, and what was trained.

        Args:
            with_bad: some rows were made to be quarantined, see `is_bad`.
        """
        order = seen.order
        owners, rows = order // ROWS_OF_ONE, order % ROWS_OF_ONE
        assert set(np.unique(owners)) <= set(produced), "rows of a producer that does not exist"
        return cls({i: _of_one(made, rows[owners == i], with_bad) for i, made in produced.items()})

    def total(self, name: str) -> int:
        """A column, added up."""
        return sum(getattr(each, name) for each in self.producers.values())

    def __str__(self) -> str:
        names = ("produced", "trained", "quarantined", "elsewhere", "doubled", "strange")
        lines = ["producer  " + "  ".join(f"{name:>11}" for name in names)]
        lines += [
            f"{f'rank-{index}':8}  " + "  ".join(f"{getattr(each, name):11,}" for name in names)
            for index, each in self.producers.items()
        ]
        return "\n".join(lines)


def _of_one(produced: int, trained: Array, with_bad: bool) -> ProducerBooks:
    """From the row numbers that were trained, in any order."""
    times = np.bincount(trained, minlength=produced)
    bad = np.array([with_bad and is_bad(row) for row in range(produced)], bool)
    own = int(((times[:produced] > 0) & ~bad).sum())
    return ProducerBooks(
        produced=produced,
        trained=own,
        quarantined=int(bad.sum()),
        elsewhere=produced - own - int(bad.sum()),
        doubled=int((times > 1).sum()),
        strange=int((times > 0).sum()) - own,
    )
