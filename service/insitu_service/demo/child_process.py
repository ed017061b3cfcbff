"""A program that the demo starts, and that never outlives it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from insitu_service.demo.interruption import Interruption

STOP_SECONDS = 10.0


class ChildProcess:
    """A process whose output goes to a file; at the end of the `with` it is ended.

    It runs in a session of its own, so that Ctrl-C reaches the demo alone, which ends it in
    order; variables that would change its configuration are taken from its environment.

    Args:
        command: its command line.
        log_path: file for its stdout and stderr.
    """

    def __init__(self, command: Sequence[str], log_path: Path, interruption: Interruption) -> None:
        self.command = list(command)
        self.log_path = log_path
        self._interruption = interruption
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; only inside the `with`."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("INSITU__")}
        with self._interruption.held(), self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.log_path.parent,
                env=environment,
                start_new_session=True,
            )

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        assert self._process is not None, "not started"
        return self._process.poll()

    def output(self) -> str:
        return self.log_path.read_text(errors="replace")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._interruption.held():
            self._end(in_order=kind is None)

    def _end(self, *, in_order: bool) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        if in_order:
            self._process.terminate()
        else:
            self._process.kill()  # nobody wants its result any more
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
