"""What the tests of bad input share: a service to ill-treat, honest and hostile peers, books."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
import zmq

from daemon import Daemon, wait_for
from insitu.schema import Schema
from insitu.wire.checksum import checksum
from insitu.wire.codec import decode, encode
from insitu.wire.messages import PROTOCOL_VERSION, Data, Hello, Message, Ping, Welcome
from insitu.wire.rows import pack_rows
from insitu_producers import Producer

SCHEMA = Schema.of({"x": ("float32", (4,)), "y": ("int64", ())})
TIMEOUT_SECONDS = 3.0
Answer = TypeVar("Answer")


def config(directory: Path, **changes: Any) -> dict[str, Any]:
    """A small classifier of ten labels; `changes` replaces settings of its sections."""
    sections: dict[str, Any] = {
        "stream": {
            "names": ["lab"],
            "endpoints": [f"ipc://{directory}/ingest"],
            "fields": {"x": {"dtype": "float32", "shape": [4]}, "y": {"dtype": "int64"}},
            "session_timeout_seconds": TIMEOUT_SECONDS,
        },
        "buffer": {"policy": "fifo", "capacity_samples": 512},
        "pace": {"kind": "free", "linger_seconds": 0.05},
        "model": {"name": "mlp", "options": {"hidden": [8]}},
        "objective": {
            "name": "classify", "options": {"input": "x", "target": "y", "classes": 10}
        },
        "trainer": {"batch_size": 8, "threads": 1},
        "http": {"port": 0},
    }  # fmt: skip
    for name, values in changes.items():
        sections[name] = {**sections.get(name, {}), **values}
    return sections


def samples(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Good ones."""
    random = np.random.default_rng(seed)
    return {
        "x": random.standard_normal((rows, 4)).astype(np.float32),
        "y": random.integers(0, 10, rows),
    }


def honest(daemon: Daemon, name: str = "honest", **how: Any) -> Producer:
    """A real producer of the stream."""
    how = {"linger_seconds": 5.0, **how}
    return Producer(daemon.endpoint, stream="lab", producer_id=name, **how)


def assert_lives(daemon: Daemon, **how: Any) -> None:
    """A good producer still gets its samples trained, and the books balance."""
    before = daemon.metric("insitu_trained_samples_total", source="fresh")
    with honest(daemon, **how) as producer:
        producer.push(samples(16))
        producer.flush(timeout_seconds=20.0)
        assert producer.stats().acknowledged_rows == 16
    daemon.wait_metric("insitu_trained_samples_total", before + 16, source="fresh")
    assert_balanced(daemon)


def books(daemon: Daemon) -> dict[str, float]:
    """What came in, and what became of it."""
    return {
        "received": daemon.metric("insitu_received_samples_total"),
        "trained": daemon.metric("insitu_trained_samples_total", source="fresh"),
        "skipped": daemon.metric("insitu_skipped_samples_total"),
        "pending": daemon.metric("insitu_buffer_unseen_samples"),
        "dropped": daemon.metric("insitu_dropped_samples_total"),
        "quarantined": daemon.metric("insitu_quarantined_samples_total"),
        "probes": daemon.metric("insitu_probe_samples_total"),
    }


def assert_balanced(daemon: Daemon) -> None:
    """What was received is all somewhere, once nothing moves."""

    def balanced() -> bool:
        found = books(daemon)
        return found.pop("received") == sum(found.values())

    wait_for(balanced, f"books that balance; now {books(daemon)}", 10.0)


def log_says(daemon: Daemon, text: str) -> bool:
    return any(text in line["message"] for line in daemon.log_lines())


class Hostile:
    """A bare DEALER that sends whatever it is told to."""

    def __init__(self, endpoint: str) -> None:
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(endpoint)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._context.destroy(linger=0)

    def frames(self, *frames: bytes) -> None:
        self.socket.send_multipart(frames)

    def send(self, message: Message) -> None:
        self.socket.send_multipart(encode(message))

    def expect(self, kind: type[Answer], seconds: float = 20.0) -> Answer:
        """The next message of this kind; others are passed over."""
        deadline = time.monotonic() + seconds
        while self.socket.poll(max(0, int(1000 * (deadline - time.monotonic())))):
            message = decode(self.socket.recv_multipart())
            if isinstance(message, kind):
                return message
        raise AssertionError(f"no {kind.__name__} within {seconds} s")

    def hello(self, producer_id: str, **changes: Any) -> None:
        values: dict[str, Any] = {
            "version": PROTOCOL_VERSION, "producer_id": producer_id, "epoch": 1, "stream": "lab",
            "schema": SCHEMA, "capabilities": ("crc32",),
            "host_id": "here", "boot_id": "now", "token": "", "first_available_seq": 1,
            "first_available_row": 0,
        }  # fmt: skip
        values |= changes
        values.setdefault("schema_crc32", values["schema"].crc32)
        self.send(Hello(**values))

    def greet(self, producer_id: str, **changes: Any) -> Welcome:
        self.hello(producer_id, **changes)
        return self.expect(Welcome)

    def ping(self, session: int) -> None:
        self.send(Ping(session, 1, 0, 0, 0, 0.0))


def payload_of(arrays: dict[str, np.ndarray]) -> bytes:
    """The rows as they go over the wire."""
    rows = len(arrays["y"])
    out = np.zeros(rows * SCHEMA.row_bytes, np.uint8)
    pack_rows(SCHEMA, arrays, out)
    return out.tobytes()


def data(session: int, seq: int, payload: bytes, **changes: Any) -> Data:
    """A whole batch in one fragment, correct unless changed."""
    values: dict[str, Any] = {
        "session": session, "seq": seq, "fragment": 0, "fragments": 1,
        "rows": max(1, len(payload) // SCHEMA.row_bytes), "first_row": 0,
        "payload_bytes": len(payload), "offset": 0, "checksum": checksum("crc32", payload),
        "produced_at_ns": 0, "cursor": None, "task": "", "sample_ids": None, "flags": 0,
        "piece": None, "payload": payload,
    }  # fmt: skip
    return Data(**(values | changes))


def first_half(whole: Data) -> Data:
    """The first of two fragments that a batch is cut into."""
    half = whole.payload[: len(whole.payload) // 2]
    return replace(whole, fragments=2, payload=half, checksum=checksum("crc32", half))
