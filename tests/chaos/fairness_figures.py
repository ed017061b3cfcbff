"""What is measured of many producers at once: shares, and times to acknowledgement."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from chaos.books import Books


@dataclass(frozen=True)
class Interval:
    """Some seconds of the good producers, and what they cost the service.

    Args:
        latencies_seconds: from each push to its acknowledgement.
    """

    seconds: float
    rows: int
    latencies_seconds: np.ndarray
    service_cpu_seconds: float

    def quantile(self, share: float) -> float:
        """Of the time to acknowledgement, in seconds."""
        return float(np.quantile(self.latencies_seconds, share))


@dataclass
class FairnessFigures:
    """Shares at equal offer, then rounds without bad ones, beside a decoy, and with the bad ones.

    Args:
        rate_rows: that all good producers offer together in the rounds, a second.
    """

    producers: int
    capacity_rows: float = 0.0  # a second, at equal offer
    accepted: list[int] = field(default_factory=list)
    rate_rows: float = 0.0
    alone: list[Interval] = field(default_factory=list)
    beside_a_decoy: list[Interval] = field(default_factory=list)
    in_company: list[Interval] = field(default_factory=list)
    hostile: dict[str, int] = field(default_factory=dict)
    counted: dict[str, int] = field(default_factory=dict)
    refused_pushes: int = 0
    books: Books | None = None

    @property
    def most_off(self) -> float:
        """The producer that is farthest off the mean, as a share of the mean."""
        shares = np.array(self.accepted) / np.mean(self.accepted)
        return float(np.abs(shares - 1.0).max())

    @property
    def p99_share(self) -> float:
        """p99 of the time to acknowledgement in company against that beside a decoy.

        So what a flood takes from everything on the machine is not laid to the service. Of each
        the round at the lower quartile: whatever else the machine does makes a round longer and
        never shorter, so that the higher ones say little of the service.
        """
        return _p99(self.in_company) / _p99(self.beside_a_decoy)

    @property
    def p99_share_of_alone(self) -> float:
        """The same against that without any."""
        return _p99(self.in_company) / _p99(self.alone)

    def __str__(self) -> str:
        shares = (
            f"{self.producers} producers at equal offer: {self.capacity_rows:,.0f} rows/s in all, "
            f"{min(self.accepted):,} to {max(self.accepted):,} rows each, "
            f"{100 * self.most_off:.1f} % off the mean at most"
        )
        return f"{shares}\n{self._rounds()}\n{self._books()}"

    def _rounds(self) -> str:
        if not self.alone:
            return "no rounds with bad ones"
        lines = [f"beside a stalled, a slow and a hostile one, at {self.rate_rows:,.0f} rows/s:"]
        kinds = ("alone", self.alone), ("decoy", self.beside_a_decoy), ("company", self.in_company)
        for name, rounds in kinds:
            p99s = "  ".join(f"{1000 * each.quantile(0.99):7.2f}" for each in rounds)
            p50 = 1000 * float(np.median([each.quantile(0.5) for each in rounds]))
            cpu = sum(each.service_cpu_seconds for each in rounds)
            cost = 1e6 * cpu / sum(each.rows for each in rounds)
            lines.append(
                f"{name:7}  p99 of each round {p99s} ms; p50 {p50:.2f} ms; "
                f"{cost:.1f} s of processors for a million rows"
            )
        lines.append(
            f"p99 in company is {self.p99_share:.2f} of that beside a flood of another door, and "
            f"{self.p99_share_of_alone:.2f} of that alone; "
            f"{self.refused_pushes} pushes found the window full"
        )
        return "\n".join(lines)

    def _books(self) -> str:
        did = ", ".join(f"{count:,} {name}" for name, count in self.hostile.items())
        counted = ", ".join(f"{count:,} {name}" for name, count in self.counted.items())
        books = self.books
        assert books is not None
        sums = ", ".join(
            f"{books.total(name):,} {name}"
            for name in ("produced", "trained", "elsewhere", "doubled", "strange")
        )
        return f"the hostile one did {did}\nthe service counted {counted}\nbooks of all: {sums}"


def _p99(rounds: list[Interval]) -> float:
    return float(np.quantile([each.quantile(0.99) for each in rounds], 0.25))
