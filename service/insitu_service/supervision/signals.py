"""Signals, turned into words in a queue that the main thread reads.

SIGTERM, SIGINT  stop: no new samples, train what is pending, checkpoint, exit 0;
                 a second one quits at once with exit code 130
SIGHUP           read the configuration again, keep the old one when it is wrong
SIGUSR1          checkpoint now (Slurm sends it before the end of a job)
SIGQUIT          print the stacks of all threads on stderr and go on
"""

from __future__ import annotations

import faulthandler
import os
import queue
import signal
from types import FrameType

from insitu_service.exit_codes import INTERRUPTED

_WORDS = {
    signal.SIGTERM: "stop",
    signal.SIGINT: "stop",
    signal.SIGHUP: "reload",
    signal.SIGUSR1: "checkpoint",
}


class Signals:
    """Catches signals while it is entered; `words` holds what they ask for.

    Must be entered by the main thread. The handlers only put a word into a queue that may be
    written to from a handler, so they are safe at any moment.
    """

    def __init__(self) -> None:
        self.words: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._stopping = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Signals:
        for number in _WORDS:
            self._before[number] = signal.signal(number, self._caught)
        faulthandler.register(signal.SIGQUIT, all_threads=True)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        faulthandler.unregister(signal.SIGQUIT)

    def _caught(self, number: int, _frame: FrameType | None) -> None:
        word = _WORDS[signal.Signals(number)]
        if word == "stop":
            if self._stopping:
                os._exit(INTERRUPTED)
            self._stopping = True
        self.words.put(word)
