"""The services that the harness breaks: a small classifier that writes down what it trained."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chaos.rows import CLASSES, FEATURES, STREAM
from daemon import Daemon

#: where a service finds the parts of it that are ours
PLUGINS = Path(__file__).parent / "plugins"

#: a producer that is silent for so long has left
SESSION_SECONDS = 5.0


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
            "session_timeout_seconds": SESSION_SECONDS,
            "max_batch_bytes": 64 << 10,
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


def watched(directory: Path, *, plugin: str = "chaos_seen", **sections: Any) -> Daemon:
    """The same with the strategy that writes what it trained into `seen.txt`, see `Seen`."""
    return service(directory, strategies=[{"name": f"{plugin}:Seen"}], **sections)


def environment(directory: Path) -> dict[str, str]:
    """What the process of a watched service needs in its environment."""
    paths = [str(PLUGINS), os.environ.get("PYTHONPATH", "")]
    return {
        "PYTHONPATH": os.pathsep.join(paths),
        "CHAOS_SEEN": str(directory / "seen.txt"),
        "CHAOS_SHADOW": str(directory / "shadow"),
    }


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
