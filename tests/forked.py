"""Processes that start in a tenth of a second: forked from one that has imported everything.

Importing torch takes seconds, and the tests start dozens of services. A fork server imports once
and forks a child for each; what the child then runs is the command line's `main` with the
arguments, the working directory, the environment and the standard streams that it was given.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path

_PRELOAD = ["insitu_service.serving", "insitu_service.cli.run", "torch._dynamo"]


class ForkedCommand:
    """`insitu ARGUMENTS` as a process of its own; has the verbs of `subprocess.Popen`."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        output: Path,
        directory: Path,
        environment: Mapping[str, str],
    ) -> None:
        _start_server()
        context = multiprocessing.get_context("forkserver")
        given = list(arguments), str(output), str(directory), dict(environment)
        self._process = context.Process(target=_run, args=given)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("insitu", timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()


def _start_server() -> None:
    """Start the server if it does not run; what it has in its environment, libraries read once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _run(arguments: list[str], output: str, directory: str, environment: dict[str, str]) -> None:
    """In the child: become the command."""
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [directory, *filter(None, environment.get("PYTHONPATH", "").split(":"))]
    with open(output, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from insitu_service.cli import main

    main(arguments)
