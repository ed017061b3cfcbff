"""What the service knows of every life of a producer; it goes back with a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field

from simulation.life import Life


@dataclass
class Lineage:
    """What the service knows: the next row of each life, the newest epochs, and what it lost."""

    settled: dict[int, int] = field(default_factory=dict)
    newest: dict[str, int] = field(default_factory=dict)
    lost: dict[int, set[int]] = field(default_factory=dict)
    refused: dict[int, set[int]] = field(default_factory=dict)
    #: by producer id: its lives that resumed and of which a batch is settled, the newest last
    joined: dict[str, list[Life]] = field(default_factory=dict)
    #: of these: the first row that is not left out
    begun: dict[int, int] = field(default_factory=dict)

    def copy(self) -> Lineage:
        return Lineage(
            dict(self.settled), dict(self.newest), _copied(self.lost), _copied(self.refused),
            {producer_id: [*lives] for producer_id, lives in self.joined.items()}, dict(self.begun),
        )  # fmt: skip


def _copied(rows: dict[int, set[int]]) -> dict[int, set[int]]:
    return {life: set(numbers) for life, numbers in rows.items()}
