"""The stream log: what `logged` and `durable` acks cost, and how fast a killed service is back.

Pushes of 1 MiB over tcp from a process of their own, drawn as training batches here; the three
ack levels in turn, each round in a directory of its own. The clock stops when everything was
drawn and the producer holds the last ack of its level. As a checkpoint would, the drawing side
gives the log free as far as it has come, every 128 MiB; else a virtual machine would be measured
that touches memory for the first time, page by page.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from insitu_service.bench.comparison import Comparison, compare, in_turn, print_table
from insitu_service.bench.ingest import BATCH_SAMPLES, stream_config
from insitu_service.bench.service_parts import running_ingest
from insitu_service.compose import Service

#: ack level -> least share of the throughput of `received`
TARGETS = {"logged": 0.70, "durable": 0.55}
RECOVERY_TARGET_SECONDS = 2.0
_PUSH_BYTES = 1 << 20
_SAMPLE_BYTES = 1 << 14
_WARM_PUSHES = 256
_RELEASED_SAMPLES = (128 << 20) // _SAMPLE_BYTES


def _push(endpoint: str, level: str, pushes: int, results: Connection) -> None:
    from insitu_producers import Producer

    rows = _PUSH_BYTES // _SAMPLE_BYTES
    data = np.random.default_rng(0).random((rows, _SAMPLE_BYTES // 4), np.float32)
    until = "durable" if level == "durable" else "accepted"
    with Producer(endpoint, stream="bench", producer_id="bench") as producer:
        for count in (_WARM_PUSHES, pushes):
            for _ in range(count):
                producer.push({"x": data})
            producer.flush(120.0, level=until)
            results.send("done")
            results.recv()


def measure_level(level: str, total_bytes: int, root: Path) -> float:
    """Bytes a second from another process into batches, acknowledged at this level."""
    with (
        tempfile.TemporaryDirectory(dir=root) as name,
        running_ingest(_config(level, Path(name))) as service,
    ):
        return _pass_through(service, level, total_bytes)


def measure_recovery(log_bytes: int, root: Path) -> tuple[float, float, float]:
    """Seconds until a service with so much log behind it accepts, and bytes a second it lets in.

    The third is bytes a second of fresh samples, logged, for comparison.
    """
    with tempfile.TemporaryDirectory(dir=root) as name:
        directory = Path(name)
        with running_ingest(_config("logged", directory)) as service:
            rate = _pass_through(service, "logged", log_bytes, releases=False)
        began = time.perf_counter()
        with running_ingest(_config("logged", directory), resume=True) as service:
            accepts = time.perf_counter() - began
            samples = service.inlet.backlog_samples
            began = time.perf_counter()
            _draw(service, samples, releases=False)
            back = samples * _SAMPLE_BYTES / (time.perf_counter() - began)
    return accepts, back, rate


def _pass_through(
    service: Service, level: str, total_bytes: int, *, releases: bool = True
) -> float:
    """Push so much from another process, draw it here, wait for the last ack; bytes a second."""
    pushes, rows = total_bytes // _PUSH_BYTES, _PUSH_BYTES // _SAMPLE_BYTES
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    arguments = (service.ingest.endpoints[0], level, pushes, theirs)
    child = spawn.Process(target=_push, args=arguments)
    child.start()
    _draw(service, _WARM_PUSHES * rows, releases=releases)
    assert ours.recv() == "done"
    began = time.perf_counter()
    ours.send("go on")
    _draw(service, pushes * rows, releases=releases)
    assert ours.recv() == "done"
    seconds = time.perf_counter() - began
    ours.send("end")
    child.join()
    return pushes * _PUSH_BYTES / seconds


def _draw(service: Service, samples: int, *, releases: bool = True) -> None:
    buffer, drawn, released = service.buffer, 0, 0
    while drawn < samples:
        draw = buffer.draw(BATCH_SAMPLES, 60.0)
        assert draw is not None, "the stream has stalled"
        if draw.batch is not None:
            drawn += draw.batch.rows
        buffer.release(draw)
        if releases and service.log is not None and drawn - released >= _RELEASED_SAMPLES:
            released = drawn
            service.log.inlet.release(buffer.place.record)


def _config(level: str, directory: Path) -> dict[str, Any]:
    log = {} if level == "received" else {"directory": str(directory / "log"), "ack_level": level}
    checkpoints = {"directory": str(directory / "checkpoints"), "every_seconds": None}
    return stream_config(_SAMPLE_BYTES) | {"checkpoint": checkpoints, "log": log}


def measure(rounds: int, total_bytes: int, root: Path) -> list[Comparison]:
    """Throughput of each level against `received`, in turn."""
    levels = ("received", *TARGETS)
    results = in_turn(
        rounds, *(lambda level=level: measure_level(level, total_bytes, root) for level in levels)
    )
    floors, *measured = [[each / 1e6 for each in values] for values in results]
    return [
        compare(f"{level} against received, 1 MiB", "MB/s", values, floors,
                target=target, at_least=True)
        for (level, target), values in zip(TARGETS.items(), measured, strict=True)
    ]  # fmt: skip


def main(arguments: list[str]) -> int:
    """Print the tables; the exit code is 0 whatever they say."""
    parser = argparse.ArgumentParser(prog="insitu bench log", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=512, help="moved in each round")
    parser.add_argument("--recovery-megabytes", type=int, default=1024, help="behind a checkpoint")
    parser.add_argument("--directory", type=Path, help="on the disk to measure", default=None)
    given = parser.parse_args(arguments)
    root = given.directory or Path(tempfile.gettempdir())
    print_table("log", measure(given.rounds, given.megabytes << 20, root))
    accepts, back, rate = measure_recovery(given.recovery_megabytes << 20, root)
    print(
        f"recovery with {given.recovery_megabytes:,} MiB of log behind the checkpoint: accepts "
        f"after {accepts:.2f} s (target {RECOVERY_TARGET_SECONDS}), lets the backlog in at "
        f"{back / 1e6:,.0f} MB/s against {rate / 1e6:,.0f} MB/s of fresh samples: "
        f"{back / rate:.2f} (target 1)"
    )
    return 0
