"""The stream log: what `logged` and `durable` acks cost, and how fast a killed service is back.

Pushes of 1 MiB over tcp from a process of their own, drawn as training batches here. A service of
each ack level lives all the time, and they are measured in turn. As a checkpoint would, the drawing
side gives the log free as far as it has come, every 128 MiB. Before the first round the log goes
round until it writes over its own files, as it does for weeks: before that a machine is measured
that touches memory for the first time, page by page. The clock of a round stops when everything was
drawn and the producer holds the last ack of its level.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from insitu.stream.buffer import StreamBuffer
from insitu_service.bench.comparison import Comparison, compare, in_turn, print_table
from insitu_service.bench.ingest import BATCH_SAMPLES, stream_config
from insitu_service.bench.service_parts import running_ingest
from insitu_service.compose import Service

#: ack level -> least share of the throughput of `received`
TARGETS = {"logged": 0.70, "durable": 0.55}
RECOVERY_TARGET_SECONDS = 2.0
_PUSH_BYTES = 1 << 20
_SAMPLE_BYTES = 1 << 14
#: more than the log keeps of what was released, and of what was not yet
_WARM_PUSHES = 640
_RELEASED_SAMPLES = (128 << 20) // _SAMPLE_BYTES


def _push(endpoint: str, level: str, orders: Connection) -> None:
    """As often as told, until told 0."""
    from insitu_producers import Producer

    rows = _PUSH_BYTES // _SAMPLE_BYTES
    data = np.random.default_rng(0).random((rows, _SAMPLE_BYTES // 4), np.float32)
    until = "durable" if level == "durable" else "accepted"
    with Producer(endpoint, stream="bench", producer_id="bench") as producer:
        while pushes := orders.recv():
            for _ in range(pushes):
                producer.push({"x": data})
            producer.flush(120.0, level=until)
            orders.send("done")


class _Stream:
    """A service of one level and the process that pushes to it.

    Args:
        releases: the log is given free as far as it was drawn.
    """

    def __init__(self, service: Service, level: str, *, releases: bool = True) -> None:
        self._service, self._releases = service, releases
        self._drawn = self._released = 0
        spawn = multiprocessing.get_context("spawn")
        self._orders, theirs = spawn.Pipe()
        arguments = (service.ingest.endpoints[0], level, theirs)
        self._pushing = spawn.Process(target=_push, args=arguments)
        self._pushing.start()
        self.pass_through(_WARM_PUSHES if releases else 1)

    def pass_through(self, pushes: int) -> float:
        """Push so often, draw it here, wait for the last ack; bytes a second."""
        began = time.perf_counter()
        self._orders.send(pushes)
        self._draw(pushes * (_PUSH_BYTES // _SAMPLE_BYTES))
        assert self._orders.recv() == "done"
        return pushes * _PUSH_BYTES / (time.perf_counter() - began)

    def _draw(self, samples: int) -> None:
        buffer, log, target = self._service.buffer, self._service.log, self._drawn + samples
        while self._drawn < target:
            self._drawn += _draw_batch(buffer)
            due = self._drawn - self._released >= _RELEASED_SAMPLES
            if self._releases and log is not None and due:
                self._released = self._drawn
                log.inlet.release(buffer.place.record)

    def close(self) -> None:
        self._orders.send(0)
        self._pushing.join()


def _draw_batch(buffer: StreamBuffer) -> int:
    """Rows of the next batch."""
    draw = buffer.draw(BATCH_SAMPLES, 60.0)
    assert draw is not None, "the stream has stalled"
    rows = 0 if draw.batch is None else draw.batch.rows
    buffer.release(draw)
    return rows


@contextmanager
def _stream(level: str, directory: Path, *, releases: bool = True) -> Iterator[_Stream]:
    with running_ingest(_config(level, directory)) as service:
        stream = _Stream(service, level, releases=releases)
        yield stream
        stream.close()


def measure_recovery(log_bytes: int, root: Path) -> tuple[float, float]:
    """Seconds until a service with so much log behind it accepts, and bytes a second it lets in."""
    with tempfile.TemporaryDirectory(dir=root) as name:
        directory = Path(name)
        with _stream("logged", directory, releases=False) as stream:
            stream.pass_through(log_bytes // _PUSH_BYTES)
        began = time.perf_counter()
        with running_ingest(_config("logged", directory), resume=True) as service:
            accepts = time.perf_counter() - began
            samples = service.inlet.backlog_samples
            began = time.perf_counter()
            drawn = 0
            while drawn < samples:
                drawn += _draw_batch(service.buffer)
            back = samples * _SAMPLE_BYTES / (time.perf_counter() - began)
    return accepts, back


def _config(level: str, directory: Path) -> dict[str, Any]:
    log = {} if level == "received" else {"directory": str(directory / "log"), "ack_level": level}
    checkpoints = {"directory": str(directory / "checkpoints"), "every_seconds": None}
    return stream_config(_SAMPLE_BYTES) | {"checkpoint": checkpoints, "log": log}


def measure(rounds: int, total_bytes: int, root: Path) -> list[Comparison]:
    """Throughput of each level against `received`, in turn."""
    pushes = total_bytes // _PUSH_BYTES
    with ExitStack() as stack:
        streams = []
        for level in ("received", *TARGETS):
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=root)))
            streams.append(stack.enter_context(_stream(level, directory)))
        results = in_turn(rounds, *(partial(each.pass_through, pushes) for each in streams))
    floors, *measured = [[each / 1e6 for each in values] for values in results]
    return [
        compare(f"{level} against received, 1 MiB", "MB/s", values, floors,
                target=target, at_least=True)
        for (level, target), values in zip(TARGETS.items(), measured, strict=True)
    ]  # fmt: skip


def main(arguments: list[str]) -> int:
    """Print the tables; the exit code is 0 whatever they say."""
    parser = argparse.ArgumentParser(prog="insitu bench log", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--megabytes", type=int, default=512, help="moved in each round")
    parser.add_argument("--recovery-megabytes", type=int, default=1024, help="behind a checkpoint")
    parser.add_argument("--directory", type=Path, help="on the disk to measure", default=None)
    given = parser.parse_args(arguments)
    root = given.directory or Path(tempfile.gettempdir())
    levels = measure(given.rounds, given.megabytes << 20, root)
    print_table("log", levels)
    rate = levels[0].value * 1e6
    accepts, back = measure_recovery(given.recovery_megabytes << 20, root)
    print(
        f"recovery with {given.recovery_megabytes:,} MiB of log behind the checkpoint: accepts "
        f"after {accepts:.2f} s (target {RECOVERY_TARGET_SECONDS}), lets the backlog in at "
        f"{back / 1e6:,.0f} MB/s against {rate / 1e6:,.0f} MB/s of fresh samples, logged: "
        f"{back / rate:.2f} (target 1)"
    )
    return 0
