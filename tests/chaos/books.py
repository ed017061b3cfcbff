"""The books: produced = trained + pending + dropped + quarantined + lost, per producer, exactly.

Four witnesses that know nothing of each other: what the producers wrote down before they pushed,
the service's own counts, the sample ids of every step that is in the weights, and which rows were
made to be quarantined. Rows that none of them can place are what this harness looks for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from chaos.rows import ROWS_OF_ONE, is_bad
from chaos.seen import Seen


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
        trained: dict[int, dict[int, int]] = {index: {} for index in produced}
        for sample, times in seen.counts().items():
            trained[sample // ROWS_OF_ONE][sample % ROWS_OF_ONE] = times
        return cls({i: _of_one(rows, trained[i], with_bad) for i, rows in produced.items()})

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


def _of_one(produced: int, trained: Mapping[int, int], with_bad: bool) -> ProducerBooks:
    bad = {row for row in range(produced) if with_bad and is_bad(row)}
    own = {row for row in trained if row < produced and row not in bad}
    return ProducerBooks(
        produced=produced,
        trained=len(own),
        quarantined=len(bad),
        elsewhere=produced - len(own) - len(bad),
        doubled=sum(times > 1 for times in trained.values()),
        strange=len(trained) - len(own),
    )
