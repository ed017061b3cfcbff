"""The producers' processes: started, paused, ended, killed and started again."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from chaos.ledger import produced_rows
from chaos.pushing import Pushing

_TESTS = Path(__file__).resolve().parent.parent
_ANSWER_SECONDS = 150.0


@dataclass
class ProducerProcess:
    """One simulation; what it has pushed is in its ledger, whatever becomes of it.

    Args:
        told: how it pushes.
        directory: of its ledger, its options and its output.
    """

    told: Pushing
    directory: Path

    def __post_init__(self) -> None:
        self.name = f"rank-{self.told.index}"
        self.told = replace(self.told, ledger=str(self.directory / f"{self.name}.ledger"))
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.Queue[str] = queue.Queue()

    def start(self) -> None:
        """Start it; it pushes at once."""
        options = self.directory / f"{self.name}.json"
        options.write_text(json.dumps(asdict(self.told)))
        paths = [str(_TESTS), os.environ.get("PYTHONPATH", "")]
        with (self.directory / f"{self.name}.log").open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "chaos.pushing", str(options)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
            )
        self._answers = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def say(self, word: str) -> None:
        """`pause`, `go` or `finish`."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()

    def expect(self, word: str) -> int:
        """Wait until it says this; the number that it says with it."""
        while True:
            try:
                answer = self._answers.get(timeout=_ANSWER_SECONDS)
            except queue.Empty:
                raise AssertionError(f"{self.name} does not say {word}: {self.log()}") from None
            if answer == "":
                raise AssertionError(f"{self.name} ended before it said {word}: {self.log()}")
            said, number = answer.split()
            if said == word:
                return int(number)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def produced(self) -> int:
        """Rows that it has made, by its ledger."""
        return produced_rows(Path(self.told.ledger))

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """kill -9, and wait for the end."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                assert pipe is not None
                pipe.close()

    def wait(self) -> int:
        """The exit code, once it has ended by itself."""
        assert self._process is not None
        return self._process.wait(_ANSWER_SECONDS)

    def _listen(self) -> None:
        process, answers = self._process, self._answers
        assert process is not None
        assert process.stdout is not None
        try:
            for line in process.stdout:
                answers.put(line.strip())
        except ValueError:
            pass  # closed, because it was killed
        answers.put("")

    def log(self) -> str:
        """The end of what it wrote on its standard error."""
        return (self.directory / f"{self.name}.log").read_text()[-2000:]
