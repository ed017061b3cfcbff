"""A real `insitu serve` process for tests: started, awaited, asked, signalled, killed.

Nothing sleeps for a fixed time: `wait_for` polls a condition up to a deadline and then fails with
what it saw last.
"""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from forked import ForkedCommand

PATIENCE_SECONDS = 60.0


def wait_for(condition: Callable[[], Any], what: str, seconds: float = PATIENCE_SECONDS) -> Any:
    """The first truthy value of `condition`; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    seen: Any = None
    while time.monotonic() < deadline:
        seen = condition()
        if seen:
            return seen
        time.sleep(0.02)  # between two looks; what is waited for is the condition
    raise AssertionError(f"waited {seconds} s for {what}; last seen: {seen!r}")


class Daemon:
    """One service process in a directory of its own.

    Args:
        directory: where its configuration, log and checkpoints lie.
        config: the configuration as plain data; the HTTP port and the endpoint are chosen
            free unless given.
    """

    def __init__(self, directory: Path, config: Mapping[str, Any]) -> None:
        self.directory = directory
        self.endpoint = f"ipc://{directory}/ingest"
        self.config: dict[str, Any] = json.loads(json.dumps(config))
        self.config.setdefault("stream", {}).setdefault("endpoints", [self.endpoint])
        self.endpoint = self.config["stream"]["endpoints"][0]
        self.config.setdefault("http", {}).setdefault("port", 0)
        self.config.setdefault("service", {}).setdefault("log_format", "json")
        self.log_path = directory / "service.log"
        self.process: ForkedCommand | None = None
        self.url = ""

    def start(self, *arguments: str, environment: Mapping[str, str] | None = None) -> Daemon:
        """Start it and wait until it is ready."""
        self.launch(*arguments, environment=environment)
        return self.wait_ready()

    def wait_ready(self) -> Daemon:
        """Wait until it is ready, after `launch`."""
        wait_for(self._ready, f"the service to be ready; log: {self.log_path}")
        return self

    def launch(self, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        """Start it without waiting."""
        path = self.directory / "run.yaml"
        path.write_text(yaml.safe_dump(self.config))
        self.log_path.touch()
        self._log_began = self.log_path.stat().st_size
        env = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
        words = ["serve", str(path), *arguments]
        self.process = ForkedCommand(
            words, output=self.log_path, directory=self.directory, environment=env
        )

    def _ready(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"it ended with {self.process.returncode}:\n{self.log()}")
        for line in self.log_lines():
            if line.get("message", "").startswith("serving") and "url" in line:
                self.url = line["url"]
                return self.get("/readyz")[0] == 200
        return False

    # asking

    def get(self, path: str, accept: str = "*/*") -> tuple[int, str]:
        request = urllib.request.Request(self.url + path, headers={"Accept": accept})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def post(self, command: str, **arguments: Any) -> tuple[int, dict[str, Any]]:
        request = urllib.request.Request(
            f"{self.url}/control/{command}?timeout=30",
            data=json.dumps(arguments).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=40) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def status(self) -> dict[str, Any]:
        code, text = self.get("/status")
        assert code == 200, text
        result: dict[str, Any] = json.loads(text)
        return result

    def metric(self, name: str, **labels: str) -> float:
        """The sum of all series of a metric that carry these labels."""
        total, found = 0.0, False
        for family in text_string_to_metric_families(self.get("/metrics")[1]):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    total, found = total + sample.value, True
        assert found, f"no series {name}{labels}"
        return total

    def wait_metric(self, name: str, value: float, **labels: str) -> None:
        """Wait until a metric has reached a value."""
        wait_for(lambda: self.metric(name, **labels) >= value, f"{name}{labels} >= {value}")

    def log(self) -> str:
        return self.log_path.read_bytes()[self._log_began :].decode(errors="replace")

    def log_lines(self) -> list[dict[str, Any]]:
        whole, _, _unfinished = self.log().rpartition("\n")
        return [json.loads(line) for line in whole.splitlines() if line.startswith("{")]

    # ending

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(PATIENCE_SECONDS)

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
