"""Simulations without files that are killed in the middle of a push and started again, against the
receiving half of a real service, with real sockets: every row is drawn once.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from insitu_producers import Producer
from insitu_service.bench.service_parts import running_ingest
from insitu_service.compose import Service
from peer import wait_until
from test_producer_killed import SIMULATION

#: every push of the simulation is larger than a batch may be, so the service takes it in parts
RING_SAMPLES = 32
KILLS = 3
NAN_ROWS = [1, 4, 5]


def config(directory: Path | None = None) -> dict[str, Any]:
    """With a stream log, where there is a directory for it."""
    sections: dict[str, Any] = {
        "stream": {
            "names": ["s"],
            "endpoints": ["tcp://127.0.0.1:*"],
            "fields": {
                "n": {"dtype": "int64", "shape": []},
                "x": {"dtype": "float32", "shape": [16]},
            },
        },
        "buffer": {"policy": "fifo", "capacity_samples": RING_SAMPLES},
        "pace": {"kind": "free", "linger_seconds": 0.01},
        "model": {"name": "mlp_autoencoder", "options": {"hidden": [8], "latent": 2}},
        "objective": {"name": "reconstruct", "options": {"input": "x"}},
        "trainer": {"batch_size": 4, "threads": 1, "device": "cpu"},
        "http": {"port": 0},
    }
    if directory is not None:
        sections["log"] = {"directory": str(directory / "log")}
        sections["checkpoint"] = {"directory": str(directory / "checkpoints")}
    return sections


@contextmanager
def drawing(service: Service) -> Iterator[list[int]]:
    """What was drawn, while it is."""
    rows: list[int] = []
    stop = threading.Event()

    def draw_all() -> None:
        while not stop.is_set():
            draw = service.buffer.draw(4, 0.05)
            if draw is None:
                continue
            if draw.batch is not None:
                rows.extend(draw.batch.fields["n"].tolist())
            service.buffer.release(draw)

    thread = threading.Thread(target=draw_all)
    thread.start()
    try:
        yield rows
    finally:
        stop.set()
        thread.join()


def settled(service: Service) -> int:
    position = service.buffer.position("p")
    return 0 if position is None else position.rows


def kill_in_a_push(service: Service, seed: int) -> None:
    """Start a simulation, and kill it when the service has taken a few parts of pushes."""
    words = [service.ingest.endpoints[0], "", str(10**9), str(seed)]
    process = subprocess.Popen(
        [sys.executable, "-c", SIMULATION, *words], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    began = settled(service)
    wait_until(lambda: settled(service) > began + 300, 60.0)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


def finish(service: Service, rows: int) -> int:
    """A simulation that ends after so many rows; tells how many it left out."""
    x = np.zeros((rows, 16), np.float32)
    with Producer(
        service.ingest.endpoints[0], stream="s", producer_id="p", linger_seconds=60,
        schema={"n": ("int64", ()), "x": ("float32", (16,))}, resumes=True,
    ) as producer:  # fmt: skip
        producer.wait_connected(60)
        cursor = producer.last_cursor
        assert isinstance(cursor, int)
        for start in range(cursor, rows, 100):
            stop = min(start + 100, rows)
            numbers = np.arange(start, stop)
            producer.push({"n": numbers, "x": x[start:stop]}, cursor=stop)
        producer.flush(120)
        return producer.stats().left_out_rows


@pytest.mark.timeout(300)
def test_killed_in_the_middle_of_a_push_every_row_is_drawn_once() -> None:
    with running_ingest(config()) as service, drawing(service) as rows:
        for kill in range(KILLS):
            kill_in_a_push(service, kill)
        left_out = finish(service, 4000)
        wait_until(lambda: len(rows) >= 4000, 60.0)
    assert rows == list(range(4000)), "lost or doubled"
    assert 0 <= left_out < 200


@pytest.mark.timeout(300)
def test_so_is_it_when_the_service_comes_back_from_its_log(tmp_path: Path) -> None:
    """The place behind the cursor is in the log; and it may be left by one run after another."""
    with running_ingest(config(tmp_path)) as service, drawing(service):
        for kill in range(KILLS):
            kill_in_a_push(service, kill)
    with running_ingest(config(tmp_path), resume=True) as service, drawing(service) as rows:
        wait_until(lambda: settled(service) > 0, 60.0)
        kill_in_a_push(service, KILLS)
        finish(service, 6000)
        wait_until(lambda: len(rows) >= 6000, 60.0)
    assert rows == list(range(6000)), "lost or doubled"


def test_a_partly_bad_batch_counts_row_by_row() -> None:
    """At the producer as at the service."""
    x = np.zeros((10, 16), np.float32)
    x[NAN_ROWS] = np.nan
    with running_ingest(config()) as service, drawing(service) as rows:
        with Producer(service.ingest.endpoints[0], stream="s", producer_id="p") as producer:
            producer.push({"n": np.arange(10), "x": x})
            producer.flush(60)
            stats = producer.stats()
        wait_until(lambda: len(rows) == 7, 60.0)
        assert service.intake.quarantined_samples["non_finite"] == 3
    assert rows == [row for row in range(10) if row not in NAN_ROWS]
    assert (stats.acknowledged_rows, stats.quarantined_rows) == (7, 3)
    assert (stats.pushed_rows, stats.pending_rows) == (10, 0)
