"""A real `insitu serve` process of the demo: started, asked, drained and always ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from insitu.errors import OperatorError
from insitu_service.cli.client import ServiceClient
from insitu_service.demo.scenario import Scenario, Variant

START_SECONDS = 90.0
DRAIN_SECONDS = 120.0
STOP_SECONDS = 10.0


class ServiceProcess:
    """One service, in a directory of its own, on a free port and a local socket.

    Used as a context manager, it is stopped at the end whatever happened. It runs in a session
    of its own, so that Ctrl-C reaches the demo alone and the demo ends it in order.
    """

    def __init__(self, scenario: Scenario, variant: Variant, directory: Path) -> None:
        self.scenario = scenario
        self.variant = variant
        self.endpoint = f"ipc://{directory}/ingest"
        self.log_path = directory / "service.log"
        self.url = ""
        settings = (
            "http.port=0",
            f"stream.endpoints=[{self.endpoint}]",
            "service.log_format=json",
            *variant.overrides,
        )
        self._command = [sys.executable, "-m", "insitu_service.cli", "serve"]
        self._command.append(str(scenario.config_path))
        for setting in settings:
            self._command += ["--set", setting]
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._directory.mkdir(parents=True)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("INSITU__")}
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._directory,
                env=environment,
                start_new_session=True,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        if kind is None:
            self._process.terminate()
        else:
            self._process.kill()  # nobody wants its result any more
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def client(self) -> ServiceClient:
        return ServiceClient(self.url)

    def wait_ready(self) -> None:
        """Wait until the service says where it serves.

        Raises:
            OperatorError: it ended, or took too long; with the end of its log.
        """
        deadline = time.monotonic() + START_SECONDS
        while not self.url:
            self.check_alive()
            if time.monotonic() > deadline:
                raise self._trouble(f"did not start within {START_SECONDS:g} s")
            self.url = _url_in(self.log_path.read_text())
            time.sleep(0.05)  # between two looks

    def check_alive(self) -> None:
        """Raise an OperatorError when the process has ended."""
        assert self._process is not None
        code = self._process.poll()
        if code is not None:
            raise self._trouble(f"ended with exit code {code}")

    def status(self) -> dict[str, Any]:
        self.check_alive()
        return self.client.status()

    def drain(self) -> None:
        """Let the service train all that has arrived, and wait for it."""
        answer = self.client.control("drain", {}, DRAIN_SECONDS)
        if answer.get("state") != "done":
            raise self._trouble(f"was not drained within {DRAIN_SECONDS:g} s")

    def _trouble(self, what: str) -> OperatorError:
        tail = "\n".join(self.log_path.read_text().splitlines()[-15:])
        name = f"{self.scenario.name} ({self.variant.name})"
        return OperatorError(f"the service {name} {what}; its log ends:\n{tail}\n")


def _url_in(log: str) -> str:
    """The address in the line that says that the service is ready; empty before."""
    for line in log.splitlines():
        if line.startswith("{") and line.endswith("}"):
            record = json.loads(line)
            if str(record.get("message", "")).startswith("serving") and "url" in record:
                return str(record["url"])
    return ""
