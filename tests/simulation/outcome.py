"""What happened in a schedule, and the sum of its books."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from simulation.books import Books
from simulation.service import Service


@dataclass
class Outcome:
    """Counts by name; `digest` tells whether two runs were the same."""

    seed: int
    events: int = 0
    digest: str = ""
    counts: Counter[str] = field(default_factory=Counter)

    def service_ended(self, service: Service) -> None:
        """Take its counters over."""
        intake = service.intake
        for name in ("duplicate_batches", "go_backs", "full_batches", "fenced_sessions",
                     "expired_sessions", "lost_samples", "unsent_messages"):  # fmt: skip
            self.counts[name] += getattr(intake, name)
        self.counts["lives of the service"] += 1

    def add(self, books: Books, service: Service) -> None:
        """Where every row is in the end."""
        counts, lineage = self.counts, books.lineage
        counts["pushed"] += sum(life.pushed - life.begun for life in books.lives)
        counts["runs resumed"] += books.runs.resumed
        counts["fences lost"] += books.runs.lost_fences
        counts["rows left out"] += books.runs.left_out_rows
        counts["producer dropped"] += sum(len(life.dropped) for life in books.lives)
        for name, rows in (
            ("trained", service.record.drawn),
            ("probes", service.record.probed),
            ("lost", lineage.lost),
        ):
            counts[name] += sum(map(len, rows.values()))
        counts["buffer dropped"] += service.buffer.snapshot().dropped
        for life in books.lives:
            gone = lineage.lost.get(life.number, set()) | lineage.refused.get(life.number, set())
            settled = lineage.settled.get(life.number, 0)
            counts["quarantined"] += sum(row < settled for row in life.poisoned - gone)
