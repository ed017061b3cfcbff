"""What the tests of a running service share: a small configuration, and a stream to feed it.

The stream is a function of the row number alone, so whoever pushes row 17 pushes the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from daemon import Daemon, wait_for
from insitu.schema import Schema
from insitu_producers import Producer

SCHEMA = Schema.of({"x": ("float32", (6,)), "y": ("int64", ())})
CLASSES = 4


def config(directory: Path, **sections: Mapping[str, Any]) -> dict[str, Any]:
    """A service that learns to classify; `sections` replace single settings."""
    base: dict[str, dict[str, Any]] = {
        "service": {"name": "small"},
        "stream": {
            "names": ["small"],
            "fields": {
                "x": {"dtype": "float32", "shape": [6]},
                "y": {"dtype": "int64", "minimum": 0, "maximum": CLASSES - 1},
            },
        },
        "buffer": {"policy": "fifo", "capacity_samples": 512},
        "pace": {"kind": "fixed"},
        "model": {"name": "mlp", "options": {"hidden": [16]}},
        "objective": {
            "name": "classify",
            "options": {"input": "x", "target": "y", "classes": CLASSES},
        },
        "optimizer": {"name": "SGD", "options": {"lr": 0.05, "momentum": 0.9}},
        "trainer": {"batch_size": 8, "threads": 1, "device": "cpu"},
        "checkpoint": {"directory": str(directory / "checkpoints"), "every_seconds": None},
    }
    for name, section in sections.items():
        if isinstance(section, Mapping):
            base.setdefault(name, {}).update(section)
        else:
            base[name] = section
    return base


def arrays(start: int, stop: int) -> dict[str, np.ndarray]:
    """Rows `[start, stop)` of the stream: four clouds, one a class."""
    labels = np.arange(start, stop) * 7 % CLASSES
    noise = [np.random.default_rng(row).normal(size=6) for row in range(start, stop)]
    x = (np.array(noise) + 2.0 * np.eye(CLASSES, 6)[labels]).astype(np.float32)
    return {"x": x, "y": labels.astype(np.int64)}


def producer(daemon: Daemon, producer_id: str = "rank-0", **options: Any) -> Producer:
    """A producer of the stream, connected or waiting for the service."""
    given = {"schema": SCHEMA, "epoch": 1, **options}
    return Producer(daemon.endpoint, stream="small", producer_id=producer_id, **given)


def push(
    target: Producer, start: int, stop: int, *, task: str = "", rows: int = 20, **options: Any
) -> None:
    """Push rows `[start, stop)`, `rows` at a time; the cursor is the row after the newest."""
    for begin in range(start, stop, rows):
        end = min(begin + rows, stop)
        assert target.push(
            arrays(begin, end),
            task=task,
            cursor=end,
            sample_ids=np.arange(begin, end),
            **options,
        )


def wait_log(daemon: Daemon, text: str) -> dict[str, Any]:
    """The first log line whose message has this text."""
    found: dict[str, Any] = wait_for(
        lambda: next((n for n in daemon.log_lines() if text in n.get("message", "")), None),
        f"{text!r} in the log {daemon.log_path}",
    )
    return found


def books_balance(daemon: Daemon) -> bool:
    """What came = trained + skipped + pending + dropped + quarantined + probes, in samples."""
    status, probes = daemon.status(), daemon.metric("insitu_probe_samples_total")
    stream, buffer = status["stream"], status["buffer"]
    pending = buffer["pending_samples"] + buffer["backlog_samples"]
    came = stream["received_samples"] + stream["resumed_samples"]
    gone = ("trained_samples", "skipped_samples", "dropped_samples", "quarantined_samples")
    return bool(came == sum(stream[name] for name in gone) + pending + probes)
