"""Processes that are told words on their input and answer each with a line of JSON."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

_TESTS = Path(__file__).resolve().parent.parent
_ANSWER_SECONDS = 180.0


class Talking:
    """A module of ours as a process of its own.

    Args:
        module: run with the path of its options, which are written as JSON.
        told: the options, a dataclass.
        directory: of its options and its output.
        name: of both files.
    """

    def __init__(self, module: str, told: Any, directory: Path, name: str) -> None:
        self.name, self._log = name, directory / f"{name}.log"
        options = directory / f"{name}.json"
        options.write_text(json.dumps(asdict(told)))
        paths = [str(_TESTS), os.environ.get("PYTHONPATH", "")]
        with self._log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, str(options)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
            )
        self._answers: queue.Queue[str] = queue.Queue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def ask(self, *words: object) -> dict[str, Any]:
        """Say something, and wait for the answer to it."""
        self.say(*words)
        return self.answer()

    def say(self, *words: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        try:
            line = self._answers.get(timeout=_ANSWER_SECONDS)
        except queue.Empty:
            line = ""
        if not line:
            raise AssertionError(f"{self.name} does not answer: {self._log.read_text()[-2000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def stop(self) -> None:
        """SIGSTOP: from now on it neither sends nor reads."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """kill -9, and wait for the end."""
        self.process.kill()
        self.process.wait()
        self._listener.join()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._answers.put(line.strip())
        self._answers.put("")
