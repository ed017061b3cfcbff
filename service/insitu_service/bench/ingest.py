"""Ingest: from a producer process to sampled training batches, against a bare pyzmq pair.

Everything the service does to a sample on its way is in the measurement: the client's copy into
its window, checksums on both sides, sequence numbers, acks and credit, the copy into the ring,
the check for finite values, and gathering training batches. The floor does none of it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from insitu_service.bench.bare_pair import Throughput, cpu_seconds, measure_bare_pair
from insitu_service.bench.comparison import Comparison, compare, print_table
from insitu_service.bench.service_parts import running_ingest

#: push size -> (bytes of one sample, least share of the floor's throughput)
SIZES = {1 << 20: (1 << 14, 0.80), 1 << 16: (1 << 14, 0.65), 1 << 12: (1 << 12, 0.50)}
CPU_TARGET = 1.25
_RING_BYTES = 64 << 20
BATCH_SAMPLES = 64


def _push(
    endpoint: str, push_bytes: int, sample_bytes: int, pushes: int, results: Connection
) -> None:
    from insitu_producers import Producer

    rows = push_bytes // sample_bytes
    data = np.random.default_rng(0).random((rows, sample_bytes // 4), np.float32)
    with Producer(endpoint, stream="bench", producer_id="bench") as producer:
        producer.push({"x": data})
        producer.flush()
        results.send("ready")
        results.recv()
        began = cpu_seconds()
        for _ in range(pushes):
            producer.push({"x": data})
        producer.flush(timeout_seconds=120.0)
        results.send(cpu_seconds() - began)


def measure_ingest(push_bytes: int, sample_bytes: int, total_bytes: int) -> Throughput:
    """Push `total_bytes` from another process; draw every sample in a training batch here."""
    pushes = max(1, total_bytes // push_bytes)
    rows = push_bytes // sample_bytes
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    with running_ingest(stream_config(sample_bytes)) as service:
        buffer = service.buffer
        arguments = (service.ingest.endpoints[0], push_bytes, sample_bytes, pushes, theirs)
        child = spawn.Process(target=_push, args=arguments)
        child.start()
        _draw(buffer, rows)
        assert ours.recv() == "ready"
        ours.send("go")
        began, began_cpu = time.perf_counter(), cpu_seconds()
        _draw(buffer, pushes * rows)
        wall, cpu = time.perf_counter() - began, cpu_seconds() - began_cpu
        cpu += ours.recv()
        child.join()
    moved = pushes * push_bytes
    return Throughput(moved / wall, cpu / moved * 1e9)


def _draw(buffer: Any, samples: int) -> None:
    drawn = 0
    while drawn < samples:
        draw = buffer.draw(BATCH_SAMPLES, 60.0)
        assert draw is not None, "the stream has stalled"
        assert draw.batch is not None
        drawn += draw.batch.rows
        buffer.release(draw)


def stream_config(sample_bytes: int) -> dict[str, Any]:
    """A service that only receives: a ring of 64 MiB, drawn from as fast as it fills."""
    return {
        "stream": {
            "names": ["bench"],
            "endpoints": ["tcp://127.0.0.1:*"],
            "fields": {"x": {"dtype": "float32", "shape": [sample_bytes // 4]}},
        },
        "buffer": {"policy": "fifo", "capacity_samples": _RING_BYTES // sample_bytes},
        "pace": {"kind": "free", "linger_seconds": 0.05},
        "model": {"name": "mlp_autoencoder", "options": {"hidden": [8], "latent": 2}},
        "objective": {"name": "reconstruct", "options": {"input": "x"}},
        "trainer": {"batch_size": BATCH_SAMPLES, "threads": 1, "device": "cpu"},
        "http": {"port": 0},
    }


def measure(rounds: int, total_bytes: int, *, zero_copy_floor: bool = False) -> list[Comparison]:
    """Throughput at every size, and CPU time at the largest, each against the floor."""
    comparisons = []
    for push_bytes, (sample_bytes, target) in SIZES.items():
        total = total_bytes if push_bytes > 4096 else total_bytes // 4
        floors, ours = [], []
        for _ in range(rounds):
            floors.append(measure_bare_pair(push_bytes, total, zero_copy=zero_copy_floor))
            ours.append(measure_ingest(push_bytes, sample_bytes, total))
        comparisons.append(
            compare(
                f"ingest, pushes of {push_bytes >> 10} KiB",
                "MB/s",
                [each.bytes_per_second / 1e6 for each in ours],
                [each.bytes_per_second / 1e6 for each in floors],
                target=target,
                at_least=True,
            )
        )
        if push_bytes == 1 << 20:
            comparisons.append(
                compare(
                    "CPU time of both processes, 1 MiB",
                    "s/GB",
                    [each.cpu_seconds_per_gigabyte for each in ours],
                    [each.cpu_seconds_per_gigabyte for each in floors],
                    target=CPU_TARGET,
                    at_least=False,
                )
            )
    return comparisons


def main(arguments: list[str]) -> int:
    """Print the table; the exit code is 0 whatever it says."""
    parser = argparse.ArgumentParser(prog="insitu bench ingest", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=1024, help="moved in each round")
    parser.add_argument(
        "--zero-copy-floor", action="store_true", help="the bare pair sends without a copy"
    )
    given = parser.parse_args(arguments)
    total_bytes = given.megabytes << 20
    floor = given.zero_copy_floor
    print_table("ingest", measure(given.rounds, total_bytes, zero_copy_floor=floor))
    return 0
