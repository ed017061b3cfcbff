"""Mutated messages through a live socket: the service lives, answers, counts each, does not grow.

    python -m chaos.socket_fuzz 1000000

Between chunks of damage a good producer pushes to the same service, which has batches half
received and sessions half open by then, and everything of it must be taken.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from chaos.mutant import Mutant
from chaos.resources import descriptors, resident_bytes
from chaos.rows import SCHEMA, STREAM, ids_of, rows_of
from chaos.service_books import ServiceBooks
from chaos.services import service
from daemon import Daemon, wait_for
from insitu_producers import Producer

_PEERS = 4
#: messages between two visits of the honest producer
_CHUNK_MESSAGES = 10_000
_HONEST_ROWS = 64


@dataclass
class SocketFigures:
    """What the service made of the messages."""

    damaged: int = 0
    sent: int = 0
    counted: int = 0
    understood: int = 0
    honest_samples: int = 0
    slowest_answer_seconds: float = 0.0
    grown_bytes: int = 0
    grown_descriptors: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        return (
            f"socket: {self.damaged:,} mutated messages in {self.seconds:.0f} s; of {self.sent:,} "
            f"with the good ones between {self.counted:,} were counted, {self.understood:,} "
            f"understood; slowest /status {self.slowest_answer_seconds:.2f} s; resident memory "
            f"grew {self.grown_bytes:,} "
            f"bytes, descriptors {self.grown_descriptors:+d}; {self.honest_samples:,} samples "
            f"of an honest producer taken meanwhile"
        )


def fuzz_socket(directory: Path, messages: int, seed: int) -> SocketFigures:
    """Start a service, ill-treat it with `messages` messages, and stop it, which must succeed."""
    figures = SocketFigures()
    pace = {"kind": "free", "linger_seconds": 0.05, "samples_per_insert": 1.0}
    heard = {"max_wasted_messages_per_second": 1e9}  # every one of them is to be looked at
    with service(directory, pace=pace, service={"drain_on_stop": True}, stream=heard) as daemon:
        daemon.start()
        peers = [
            Mutant(daemon.endpoint, number, random.Random(seed + number))
            for number in range(_PEERS)
        ]
        started, warm = time.monotonic(), (0, 0)
        while figures.damaged < messages:
            _chunk(daemon, peers, min(_CHUNK_MESSAGES, messages - figures.damaged), figures)
            _visit(daemon, figures)
            if not any(warm) and figures.damaged >= messages // 5:
                warm = _held(daemon)
        figures.seconds = time.monotonic() - started
        now = _held(daemon)
        figures.grown_bytes, figures.grown_descriptors = now[0] - warm[0], now[1] - warm[1]
        for peer in peers:
            peer.close()
        wait_for(lambda: ServiceBooks.of(daemon).difference == 0, "balance", 10.0)
        assert "fault in insitu" not in daemon.log()
        assert daemon.stop() == 0
    return figures


def _chunk(daemon: Daemon, peers: list[Mutant], messages: int, figures: SocketFigures) -> None:
    """Send some, and wait until each is in a count of the service."""
    before, understood = _counted(daemon), daemon.metric("insitu_messages_total")
    so_far = sum(peer.damaged + peer.good for peer in peers)

    def sent() -> int:
        return sum(peer.damaged + peer.good for peer in peers) - so_far

    for index in range(messages):
        peers[index % len(peers)].send()
    wait_for(lambda: _counted(daemon) >= before + sent(), "all messages to be counted")
    assert _counted(daemon) == before + sent()
    began = time.monotonic()
    daemon.status()
    answer_seconds = time.monotonic() - began
    figures.slowest_answer_seconds = max(figures.slowest_answer_seconds, answer_seconds)
    figures.damaged += messages
    figures.sent += sent()
    figures.counted += int(_counted(daemon) - before)
    figures.understood += int(daemon.metric("insitu_messages_total") - understood)


def _visit(daemon: Daemon, figures: SocketFigures) -> None:
    """An honest producer comes, is taken, and goes."""
    first = figures.honest_samples
    with Producer(
        daemon.endpoint, stream=STREAM, producer_id="honest", schema=SCHEMA, linger_seconds=60
    ) as producer:
        producer.push(
            rows_of(9, first, first + _HONEST_ROWS),
            sample_ids=ids_of(9, first, first + _HONEST_ROWS),
        )
        producer.flush(60)
        assert producer.stats().acknowledged_rows == _HONEST_ROWS
    figures.honest_samples += _HONEST_ROWS


def _counted(daemon: Daemon) -> float:
    """Messages that the service has in one of its counts: understood, not, of another version."""
    return (
        daemon.metric("insitu_messages_total")
        + daemon.metric("insitu_refused_messages_total", reason="malformed")
        + daemon.metric("insitu_refused_sessions_total", reason="version")
    )


def _held(daemon: Daemon) -> tuple[int, int]:
    assert daemon.process is not None
    return resident_bytes(daemon.process.pid), descriptors(daemon.process.pid)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        print(fuzz_socket(Path(place), int(sys.argv[1]), int((sys.argv[2:] or ["1"])[0])))
