"""The services that the harness breaks: one small classifier, whose rows are numbers of a stream.

A row's sample id says whose it is and which: `ROWS_OF_ONE * producer + row`. The strategy
`chaos_seen:Seen` is a part of the service and writes down what every step trained.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from daemon import Daemon
from insitu.schema import Schema
from insitu.wire.rows import Array

#: sample ids of producer p begin at p times this
ROWS_OF_ONE = 1_000_000_000
CLASSES = 4
FEATURES = 6
STREAM = "chaos"
SCHEMA = Schema.of({"x": ("float32", (FEATURES,)), "y": ("int64", ())})
#: where a service in a test finds the plug-ins, and in which file they write
PLUGINS = Path(__file__).parent / "plugins"


def config(directory: Path, **sections: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration; `sections` replace single settings."""
    base: dict[str, dict[str, Any]] = {
        "service": {"name": "chaos", "drain_on_stop": False},
        "stream": {
            "names": [STREAM],
            "endpoints": [f"tcp://127.0.0.1:{free_port()}"],
            "fields": {
                "x": {"dtype": "float32", "shape": [FEATURES]},
                "y": {"dtype": "int64", "minimum": 0, "maximum": CLASSES - 1},
            },
            "session_timeout_seconds": 5.0,
        },
        "buffer": {"policy": "fifo", "capacity_samples": 1024},
        "pace": {"kind": "fixed"},
        "model": {"name": "mlp", "options": {"hidden": [16]}},
        "objective": {
            "name": "classify", "options": {"input": "x", "target": "y", "classes": CLASSES}
        },
        "optimizer": {"name": "SGD", "options": {"lr": 0.05, "momentum": 0.9}},
        "trainer": {"batch_size": 8, "threads": 1, "device": "cpu"},
        "checkpoint": {"directory": str(directory / "checkpoints"), "every_seconds": None},
    }  # fmt: skip
    for name, section in sections.items():
        if isinstance(section, Mapping):
            base.setdefault(name, {}).update(section)
        else:
            base[name] = section
    return base


def service(directory: Path, **sections: Any) -> Daemon:
    """A service in a directory of its own, not started."""
    directory.mkdir(parents=True, exist_ok=True)
    return Daemon(directory, config(directory, **sections))


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def rows_of(producer: int, start: int, stop: int) -> dict[str, Array]:
    """Rows `[start, stop)` of a producer: whoever makes row 17 makes the same bytes."""
    numbers = ROWS_OF_ONE * producer + np.arange(start, stop)
    labels = numbers * 7 % CLASSES
    noise = np.sin(numbers[:, None] * np.arange(1, FEATURES + 1) * 0.7391)
    x = (noise + 2.0 * np.eye(CLASSES, FEATURES)[labels]).astype(np.float32)
    return {"x": x, "y": labels.astype(np.int64)}


def ids_of(producer: int, start: int, stop: int) -> Array:
    """Their sample ids."""
    return ROWS_OF_ONE * producer + np.arange(start, stop, dtype=np.int64)
