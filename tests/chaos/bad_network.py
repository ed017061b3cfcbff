"""Producers behind a bad network: nothing lost, nothing doubled.

python -m chaos.bad_network 60
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from chaos.books import Books
from chaos.network_faults import schedule
from chaos.producers import ProducerProcess
from chaos.pushing import Pushing
from chaos.seen import Seen
from chaos.services import environment, watched
from chaos.tcp_proxy import TcpProxy
from daemon import Daemon, wait_for

_BATCH_SIZE = 8
_PRODUCERS = 3


@dataclass
class NetworkFigures:
    """What the network did, and the books at the end."""

    weather: Counter[str]
    books: Books
    resumed: int  # sessions beyond the first of each producer
    duplicates: int
    seconds: float

    def __str__(self) -> str:
        weather = ", ".join(f"{count:,} {name}" for name, count in sorted(self.weather.items()))
        return (
            f"a bad network for {self.seconds:.0f} s: {weather}; {self.duplicates:,} batches came "
            f"twice and were left out\n{self.books}"
        )


def through_a_bad_network(
    directory: Path, seconds: float, seed: int, *, half_open_seconds: float = 0.5
) -> NetworkFigures:
    """Push through the proxy for so long, then in calm to the end; the books must be right."""
    with watched(directory / "service") as daemon:
        daemon.start(environment=environment(directory))
        port = int(daemon.endpoint.rsplit(":", 1)[1])
        weather = schedule(seed, half_open_seconds=half_open_seconds)
        with TcpProxy(port, weather) as proxy:
            told = Pushing(f"tcp://127.0.0.1:{proxy.port}", 0, "", pause_seconds=0.005)
            producers = [
                ProducerProcess(replace(told, index=index), directory)
                for index in range(_PRODUCERS)
            ]
            began = time.monotonic()
            try:
                for producer in producers:
                    producer.start()
                time.sleep(seconds)  # the length of the storm is what was asked for
                proxy.calm()
                _end(daemon, producers)
            finally:
                for producer in producers:
                    producer.kill()
            books = _books(daemon, producers, Seen(directory / "seen.txt"))
            return NetworkFigures(
                proxy.counts,
                books,
                proxy.counts["connections"] - _PRODUCERS,
                int(daemon.metric("insitu_duplicate_batches_total")),
                time.monotonic() - began,
            )


def _end(daemon: Daemon, producers: list[ProducerProcess]) -> None:
    for producer in producers:
        producer.say("finish")
    for producer in producers:
        producer.expect("finished")
    wait_for(lambda: daemon.metric("insitu_sessions") == 0, "all producers to leave")


def _books(daemon: Daemon, producers: list[ProducerProcess], seen: Seen) -> Books:
    """Right to the row, or this raises."""
    produced = {producer.told.index: producer.produced() for producer in producers}
    pending = lambda: int(daemon.status()["buffer"]["pending_samples"])  # noqa: E731

    def agreed() -> Books | None:
        books = Books.of(produced, seen.follow())
        assert books.total("doubled") == books.total("strange") == 0, books
        return books if books.total("elsewhere") == pending() < _BATCH_SIZE else None

    books: Books = wait_for(agreed, "the books to agree")
    return books


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="chaos-") as place:
        given = [float(word) for word in sys.argv[1:]]
        print(
            through_a_bad_network(
                Path(place), given[0], int((given[1:] or [1])[0]), half_open_seconds=8.0
            )
        )
