"""A long run at full rate: memory, descriptors and throughput must be at its end as at its begin.

    python -m chaos.soak 1800

A minute is a thirtieth of the run, for short runs. Before the first there is a warm-up, until
caches are full and the log has gone round once; throughput is compared between the first minute
and the last, and memory and descriptors count from the third on. Throughput is judged on a
machine only that nobody else uses much: how much others had is measured too.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from chaos.producers import ProducerProcess
from chaos.pushing import Pushing
from chaos.resources import busy_seconds, cpu_seconds, descriptors, resident_bytes, threads
from chaos.rows import is_bad
from chaos.service_books import ServiceBooks
from chaos.services import service
from chaos.soak_figures import Measure, SoakFigures
from daemon import Daemon, wait_for

_PRODUCERS = 2
_INTERVALS = 30
_WARM_UP_INTERVALS = 2
_BATCH_SIZE = 64


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
            _measure(daemon, producers, seconds, figures)
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


def _measure(
    daemon: Daemon, producers: list[ProducerProcess], seconds: float, figures: SoakFigures
) -> None:
    assert daemon.process is not None
    pid, began = daemon.process.pid, time.monotonic()
    ours = [pid, os.getpid(), *(producer.pid for producer in producers)]
    for interval in range(_WARM_UP_INTERVALS, _WARM_UP_INTERVALS + _INTERVALS + 1):
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
                busy_seconds() - sum(map(cpu_seconds, ours)),
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
