"""A real `insitu serve` process of the demo: started, asked, drained and always ended."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from insitu.errors import OperatorError
from insitu_service.cli.client import ServiceClient
from insitu_service.demo.child_process import ChildProcess
from insitu_service.demo.interruption import Interruption
from insitu_service.demo.scenario import Scenario, Variant

START_SECONDS = 90.0
DRAIN_SECONDS = 120.0


class ServiceProcess(ChildProcess):
    """One service, in a directory of its own, on a free port and a local socket."""

    def __init__(
        self, scenario: Scenario, variant: Variant, directory: Path, interruption: Interruption
    ) -> None:
        self.scenario = scenario
        self.variant = variant
        self.endpoint = f"ipc://{directory}/ingest"
        self.url = ""
        settings = (
            "http.port=0",
            f"stream.endpoints=[{self.endpoint}]",
            "service.log_format=json",
            *variant.overrides,
        )
        command = [sys.executable, "-m", "insitu_service.cli", "serve", str(scenario.config_path)]
        for setting in settings:
            command += ["--set", setting]
        super().__init__(command, directory / "service.log", interruption)

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
            self.url = _url_in(self.output())
            time.sleep(0.05)  # between two looks

    def check_alive(self) -> None:
        """Raise an OperatorError when the process has ended."""
        if self.exit_code is not None:
            raise self._trouble(f"ended with exit code {self.exit_code}")

    def status(self) -> dict[str, Any]:
        self.check_alive()
        return self.client.status()

    def drain(self) -> None:
        """Let the service train all that has arrived, and wait for it."""
        answer = self.client.control("drain", {}, DRAIN_SECONDS)
        if answer.get("state") != "done":
            raise self._trouble(f"was not drained within {DRAIN_SECONDS:g} s")

    def _trouble(self, what: str) -> OperatorError:
        tail = "\n".join(self.output().splitlines()[-15:])
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
