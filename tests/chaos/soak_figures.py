"""What is measured of a soak: the service at the ends of its intervals, and what they say."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from chaos.service_books import ServiceBooks

#: of the machine; who shares it with more measures them
_MOST_OTHERS_SHARE = 0.10


@dataclass(frozen=True)
class Measure:
    """The service at one moment.

    Args:
        cpu_seconds: of processors, that the service has had.
        others_seconds: of processors, that had nothing to do with this run.
    """

    at_seconds: float
    trained: float
    resident_bytes: int
    descriptors: int
    threads: int
    cpu_seconds: float
    others_seconds: float


@dataclass
class SoakFigures:
    """All measures, and what they say; the warm-up is before the first."""

    measures: list[Measure] = field(default_factory=list)
    books: ServiceBooks | None = None

    @property
    def rates(self) -> list[float]:
        """Samples trained a second, by interval."""
        return [rows / seconds for rows, seconds, _, _ in self._intervals()]

    @property
    def efficiencies(self) -> list[float]:
        """Samples trained in a second of processors of the service, by interval; this depends
        less on how much of the machine others have."""
        return [rows / max(cpu, 0.01) for rows, _, cpu, _ in self._intervals()]

    @property
    def others_share(self) -> float:
        """Of the machine, what others had in the first or the last interval, the larger one."""
        shares = [each[3] / each[1] / (os.cpu_count() or 1) for each in self._intervals()]
        return max(shares[0], shares[-1])

    @property
    def is_quiet(self) -> bool:
        """Whether throughput says something of the service, and not of others."""
        return self.others_share <= _MOST_OTHERS_SHARE

    @property
    def grown_share(self) -> float:
        """Resident memory at the end against the third measure, when pools are full, less 1."""
        return self.measures[-1].resident_bytes / self.measures[2].resident_bytes - 1

    @property
    def throughput_share(self) -> float:
        """Throughput of the last interval against the first."""
        return self.rates[-1] / self.rates[0]

    @property
    def efficiency_share(self) -> float:
        """The same of samples in a second of processors."""
        return self.efficiencies[-1] / self.efficiencies[0]

    def _intervals(self) -> list[tuple[float, float, float, float]]:
        """Rows, seconds, the service's seconds of processors, and those of others."""
        pairs = zip(self.measures, self.measures[1:], strict=False)
        return [
            (
                later.trained - earlier.trained,
                later.at_seconds - earlier.at_seconds,
                later.cpu_seconds - earlier.cpu_seconds,
                later.others_seconds - earlier.others_seconds,
            )
            for earlier, later in pairs
        ]

    def __str__(self) -> str:
        first, third, last = self.measures[0], self.measures[2], self.measures[-1]
        rates, efficiencies = self.rates, self.efficiencies
        return (
            f"soak of {last.at_seconds:,.0f} s, and {first.at_seconds:,.0f} s of it to warm up: "
            f"{last.trained:,.0f} samples trained; resident memory {third.resident_bytes:,} to "
            f"{last.resident_bytes:,} bytes ({100 * self.grown_share:+.2f} %), descriptors "
            f"{third.descriptors} to {last.descriptors}, threads {third.threads} to "
            f"{last.threads}\n"
            f"throughput {rates[0]:,.0f} to {rates[-1]:,.0f} samples/s "
            f"({100 * self.throughput_share:.1f} %; least {min(rates):,.0f}, most "
            f"{max(rates):,.0f}); in a second of processors {efficiencies[0]:,.0f} to "
            f"{efficiencies[-1]:,.0f} ({100 * self.efficiency_share:.1f} %); others had up to "
            f"{100 * self.others_share:.0f} % of the machine\n{self.books}"
        )
