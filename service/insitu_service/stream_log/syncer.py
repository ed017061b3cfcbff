"""The log syncer: makes what the ingest thread has appended survive power loss, in groups.

One sync covers all that was appended while the one before was running (group commit), so its
cost is shared by as many batches as the disk is slow.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from insitu.stream.log.errors import LogFailed
from insitu.stream.log.stream_log import StreamLog

_log = logging.getLogger("insitu.log")

#: a sync that takes longer is a stall
_STALL_SECONDS = 5.0


class LogSyncer:
    """A thread that syncs the log.

    Args:
        log: appended to by another thread.
        at_once: sync as soon as there is something, since acks wait for it.
        interval_seconds: otherwise, how often; with `at_once`, how long a notice may be missed.
        on_synced: called by this thread when more became durable.
    """

    def __init__(
        self,
        log: StreamLog,
        *,
        at_once: bool,
        interval_seconds: float,
        on_synced: Callable[[], None] = lambda: None,
    ) -> None:
        self.syncs = 0
        self.sync_seconds = 0.0  # of all syncs together
        self.slowest_seconds = 0.0
        self._failure = ""
        self._began_at: float | None = None  # of the sync that is running
        self._lock = threading.Lock()  # this thread, and that of the checkpoint writer
        self.on_synced = on_synced
        self._log = log
        self._at_once = at_once
        self._interval_seconds = interval_seconds
        self._appended = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="log-syncer", daemon=True)

    @property
    def problem(self) -> str:
        """Why what is written cannot be made durable; empty while it can."""
        began = self._began_at
        if began is not None and time.monotonic() - began > _STALL_SECONDS:
            return f"the disk has not synced the log for {time.monotonic() - began:.0f} s"
        return self._failure

    def start(self) -> None:
        self._thread.start()

    def notice(self) -> None:
        """Something was appended; costs next to nothing when the thread is busy anyway."""
        wanted = self._at_once or self._log.wants_sync
        if wanted and not self._appended.is_set():
            self._appended.set()

    def close(self) -> None:
        """Sync what is left, and end the thread."""
        self._closing = True
        self._appended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing:
            self._appended.wait(self._interval_seconds)
            self._appended.clear()
            self.sync()

    def sync(self) -> None:
        """One sync now, if anything is not durable; a failure is told by `problem`."""
        with self._lock:
            if self._log.synced < self._log.appended:
                self._sync()

    def sync_or_raise(self) -> None:
        """One sync for a checkpoint, which names a record and so must not be ahead of the log.

        Raises:
            LogFailed: what was appended is not durable, and never will be.
        """
        self.sync()
        if self._failure:
            raise LogFailed(
                self._failure,
                consequence="no checkpoint is written: after a restart the log would end before it",
            )

    def _sync(self) -> None:
        self._began_at = began = time.monotonic()
        try:
            self._log.sync()
        except LogFailed as error:
            if not self._failure:
                _log.error("the stream log cannot be made durable: %s", error)
            self._failure = str(error)
            return
        finally:
            self._began_at = None
        took = time.monotonic() - began
        self.syncs += 1
        self.sync_seconds += took
        self.slowest_seconds = max(self.slowest_seconds, took)
        self.on_synced()
