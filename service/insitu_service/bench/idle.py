"""Idle: what a service costs that nobody pushes to, and how fast it answers a scrape."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from insitu_service.bench.comparison import Comparison, compare, print_table

CORE_SHARE_LIMIT = 0.02
SCRAPE_MS_LIMIT = 20.0
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def _config(directory: Path) -> dict[str, Any]:
    return {
        "service": {"name": "idle", "log_format": "json"},
        "stream": {
            "names": ["bench"],
            "endpoints": [f"ipc://{directory}/ingest"],
            "fields": {"x": {"dtype": "float32", "shape": [64]}, "y": {"dtype": "int64"}},
        },
        "model": {"name": "mlp", "options": {"hidden": [64]}},
        "objective": {"name": "classify", "options": {"classes": 10}},
        "checkpoint": {"directory": str(directory / "checkpoints")},
        "trainer": {"device": "cpu"},
        "http": {"port": 0},
    }


@contextmanager
def _idle_service() -> Iterator[tuple[int, str]]:
    """Process id and address of a service that waits."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "idle.yaml"
        path.write_text(json.dumps(_config(Path(name))))  # JSON is YAML
        command = [sys.executable, "-m", "insitu_service.cli", "serve", str(path)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        assert process.stderr is not None
        try:
            for line in process.stderr:
                told = json.loads(line)
                if "url" in told:
                    yield process.pid, told["url"]
                    return
            raise RuntimeError(f"the service ended with {process.wait()}")
        finally:
            process.terminate()
            process.wait()
            process.stderr.close()


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND


def _scrape_ms(url: str) -> float:
    began = time.perf_counter()
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        answer.read()
    return (time.perf_counter() - began) * 1e3


def measure(seconds: float) -> list[Comparison]:
    """Share of a core over `seconds` with a scrape every second, and the time of a scrape."""
    with _idle_service() as (pid, url):
        for _ in range(10):
            _scrape_ms(url)
        began, cpu, scrapes = time.monotonic(), _cpu_seconds(pid), []
        while time.monotonic() - began < seconds:
            time.sleep(1.0)
            scrapes.append(_scrape_ms(url))
        share = (_cpu_seconds(pid) - cpu) / (time.monotonic() - began)
    return [
        _against_limit("idle, scraped every second", "of a core", share, CORE_SHARE_LIMIT),
        _against_limit("/metrics answers", "ms", median(scrapes), SCRAPE_MS_LIMIT),
    ]


def _against_limit(name: str, unit: str, value: float, limit: float) -> Comparison:
    return compare(name, unit, [value], [limit], target=1.0, at_least=False)


def main(arguments: list[str]) -> int:
    """Print the table; the floor is the limit. The exit code is 0 whatever it says."""
    parser = argparse.ArgumentParser(prog="insitu bench idle", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    print_table("idle (floor: the limit)", measure(parser.parse_args(arguments).seconds))
    return 0
