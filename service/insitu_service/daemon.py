"""The life of the service: start, run, stop; each step in the log.

The main thread waits for words: from signals, and from the two threads that do the work when
either of them ends. It touches no part of the learning itself.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

from insitu.errors import InsituError
from insitu_service.commands import CommandQueue
from insitu_service.exit_codes import OK
from insitu_service.ingest.ingest import Ingest
from insitu_service.learning.learner import Learner
from insitu_service.supervision.alarm import Alarm
from insitu_service.supervision.blame import exit_code_of
from insitu_service.supervision.signals import Signals
from insitu_service.supervision.supervisor import Supervisor
from insitu_service.supervision.watchdog import LOOK_SECONDS, Watchdog

_log = logging.getLogger("insitu.daemon")


class Closable(Protocol):
    def close(self) -> object: ...


class Daemon:
    """Runs an ingest thread and a learner thread until told to stop.

    Args:
        ingest, learner: the two workers, ready to run.
        commands: where signals post what they ask for.
        supervisor: hears that the service is ready, alive, stopping.
        reload: reads the configuration again; called in the main thread.
        watchdog: looks at the workers; the supervisor's is fed only while all are alive.
        alarm: tells when nothing can be accepted.
        closables: closed at the end, in this order (hooks, checkpoint writer, HTTP).
    """

    def __init__(
        self,
        ingest: Ingest,
        learner: Learner,
        commands: CommandQueue,
        supervisor: Supervisor,
        *,
        reload: Callable[[], None],
        watchdog: Watchdog,
        alarm: Alarm,
        closables: Sequence[Closable],
    ) -> None:
        self.ingest = ingest
        self.learner = learner
        self._commands = commands
        self._supervisor = supervisor
        self._reload = reload
        self._watchdog = watchdog
        self._alarm = alarm
        self._fed_at = 0.0
        self._closables = closables
        self._threads: list[threading.Thread] = []

    def run(self, signals: Signals, announce: str) -> int:
        """Serve until stopped; returns the exit code."""
        self._watchdog.look()
        self._start("ingest", self.ingest.run, signals.words)
        self._start("learner", self.learner.run, signals.words)
        self._supervisor.ready(announce)
        while self.learner.state != "stopped":
            self._hear(signals.words)
        self._watchdog.close()
        self._supervisor.stopping("closing")
        self.ingest.stop()
        for thread in self._threads:
            thread.join()
        for part in self._closables:
            part.close()
        code = self._exit_code()
        _log.info("stopped with exit code %d", code)
        return code

    def _start(self, name: str, work: Callable[[], None], words: queue.SimpleQueue[str]) -> None:
        def run() -> None:
            try:
                work()
            finally:
                words.put(f"{name} ended")

        thread = threading.Thread(target=run, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _hear(self, words: queue.SimpleQueue[str]) -> None:
        """One word, or one interval without any."""
        try:
            word = words.get(timeout=LOOK_SECONDS)
        except queue.Empty:
            self._look()
            return
        if word == "reload":
            self._supervisor.reloading()
            self._reload()
            self._supervisor.ready("running")
        elif word == "ingest ended" and self.learner.state != "stopped":
            _log.error("the ingest thread ended; the service stops")
            self._post("stop")
        elif word in ("stop", "checkpoint"):
            _log.info("asked by a signal to %s", word)
            self._post(word)

    def _look(self) -> None:
        """How the workers are."""
        interval, now = self._supervisor.interval_seconds, time.monotonic()
        if self._watchdog.look() and interval is not None and now - self._fed_at >= interval:
            self._fed_at = now
            self._supervisor.alive()
        self._alarm.look()

    def _post(self, name: str) -> None:
        try:
            future: Future[dict[str, Any]] = self._commands.post(name)
        except InsituError as error:
            _log.warning("%s", error)
            return
        future.add_done_callback(lambda done: _log_outcome(name, done))

    def _exit_code(self) -> int:
        failure = self.learner.failure or self.ingest.failure
        return OK if failure is None else exit_code_of(failure)


def _log_outcome(name: str, done: Future[dict[str, Any]]) -> None:
    problem = done.exception()
    if problem is not None:
        _log.warning("%s: %s", name, problem)
    else:
        _log.info("%s done", name, extra={"result": done.result()})
