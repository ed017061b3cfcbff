"""A long run at full rate: memory, descriptors and throughput must be at its end as at its begin.

    python -m chaos.soak 1800

A minute is a thirtieth of the run, for short runs: memory and descriptors count from the third
on, when pools are full; throughput is compared between the second and the last.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from chaos.producers import ProducerProcess
from chaos.pushing import Pushing
from chaos.resources import cpu_seconds, descriptors, resident_bytes, threads
from chaos.rows import is_bad
from chaos.service_books import ServiceBooks
from chaos.services import service
from daemon import Daemon, wait_for

_PRODUCERS = 2
_INTERVALS = 30
_BATCH_SIZE = 64


@dataclass(frozen=True)
class Measure:
    """The service at one moment."""

    at_seconds: float
    trained: float
    resident_bytes: int
    descriptors: int
    threads: int
    cpu_seconds: float


@dataclass
class SoakFigures:
    """All measures, and what they say."""

    measures: list[Measure] = field(default_factory=list)
    books: ServiceBooks | None = None

    @property
    def rates(self) -> list[float]:
        """Samples trained a second, by interval."""
        return [
            (later.trained - earlier.trained) / (later.at_seconds - earlier.at_seconds)
            for earlier, later in zip(self.measures, self.measures[1:], strict=False)
        ]

    @property
    def costs(self) -> list[float]:
        """Processor time of a million samples, by interval, which does not depend on how much of
        the machine others have."""
        return [
            1e6
            * (later.cpu_seconds - earlier.cpu_seconds)
            / max(1.0, later.trained - earlier.trained)
            for earlier, later in zip(self.measures, self.measures[1:], strict=False)
        ]

    @property
    def grown_share(self) -> float:
        """Resident memory at the end against the third measure, less 1."""
        return self.measures[-1].resident_bytes / self.measures[2].resident_bytes - 1

    @property
    def throughput_share(self) -> float:
        """Throughput of the last interval against the second."""
        return self.rates[-1] / self.rates[1]

    def __str__(self) -> str:
        first, last = self.measures[2], self.measures[-1]
        return (
            f"soak of {last.at_seconds:,.0f} s: {last.trained:,.0f} samples trained; resident "
            f"memory {first.resident_bytes:,} to {last.resident_bytes:,} bytes "
            f"({100 * self.grown_share:+.2f} %), descriptors {first.descriptors} to "
            f"{last.descriptors}, threads {first.threads} to {last.threads}; throughput "
            f"{self.rates[1]:,.0f} to {self.rates[-1]:,.0f} samples/s "
            f"({100 * self.throughput_share:.1f} %), least {min(self.rates):,.0f}; a million "
            f"samples cost {self.costs[1]:.1f} and then {self.costs[-1]:.1f} s of processors\n"
            f"{self.books}"
        )


def soak(directory: Path, seconds: float) -> SoakFigures:
    """Push as fast as the service takes it; the service's books must be right at the end."""
    figures = SoakFigures()
    with service(
        directory / "service",
        service={"name": "soak"},
        log={"directory": str(directory / "service" / "log"), "segment_bytes": 4 << 20},
        trainer={"batch_size": _BATCH_SIZE},
        checkpoint={"every_seconds": max(1.0, seconds / 60), "keep": 2},
    ) as daemon:
        daemon.start()
        told = Pushing(daemon.endpoint, 0, "", most_rows=256, synced=False)
        producers = [
            ProducerProcess(replace(told, index=index), directory) for index in range(_PRODUCERS)
        ]
        try:
            for producer in producers:
                producer.start()
            for producer in producers:
                producer.expect("began")
            _measure(daemon, seconds, figures)
            for producer in producers:
                producer.say("finish")
            for producer in producers:
                producer.expect("finished")
        finally:
            for producer in producers:
                producer.kill()
        figures.books = _settled(daemon, producers)
        assert daemon.stop() == 0
    return figures


def _measure(daemon: Daemon, seconds: float, figures: SoakFigures) -> None:
    assert daemon.process is not None
    pid, began = daemon.process.pid, time.monotonic()
    for interval in range(_INTERVALS + 1):
        due = began + interval * seconds / _INTERVALS
        time.sleep(max(0.0, due - time.monotonic()))  # the length of the run was asked for
        figures.measures.append(
            Measure(
                time.monotonic() - began,
                daemon.metric("insitu_trained_samples_total", source="fresh"),
                resident_bytes(pid),
                descriptors(pid),
                threads(pid),
                cpu_seconds(pid),
            )
        )


def _settled(daemon: Daemon, producers: list[ProducerProcess]) -> ServiceBooks:
    """The books when all is trained: what the producers made is what the service got.

    The streams have ended, so that the last batch is trained though it is not full.
    """
    made = [producer.produced() for producer in producers]
    bad = sum(is_bad(row) for rows in made for row in range(rows))

    def settled() -> ServiceBooks | None:
        books = ServiceBooks.of(daemon)
        done = books.received == sum(made) and books.pending == 0 and books.difference == 0
        return books if done else None

    books: ServiceBooks = wait_for(settled, f"{made} rows in the books of the service")
    assert (books.quarantined, books.dropped, books.skipped) == (bad, 0, 0)
    return books


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="chaos-") as place:
        print(soak(Path(place), float(sys.argv[1])))
