"""The thread that writes checkpoints, so that the learner pays only for the snapshot."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from insitu.checkpoint import (
    Snapshot,
    checkpoint_name,
    list_checkpoints,
    prune,
    remove_leftovers,
    write_checkpoint,
)
from insitu.errors import OperatorError

log = logging.getLogger("insitu.checkpoint")


@dataclass(frozen=True)
class CheckpointCounters:
    """What the writer has done so far; the `last_` figures are of the newest good checkpoint.

    `failing` says that the newest attempt was in vain.
    """

    written: int = 0
    failures: int = 0
    last_duration_seconds: float = 0.0
    last_success_timestamp_seconds: float = 0.0
    last_size_bytes: int = 0
    last_path: Path | None = None
    failing: bool = False


class CheckpointWriter:
    """Writes snapshots in the order of `save`, one at a time, and keeps the newest few.

    A disk that fails costs checkpoints and nothing else: the failure is counted, logged and
    reported, earlier checkpoints stay, and training goes on. Starting it clears what a crash
    left half written under `root`.

    Args:
        root: the directory of the checkpoints; one writer per root.
        keep: how many of the newest stay.
        on_done: called in the writer's thread with the path, the step and the counters.
        on_error: called in the writer's thread with the step and the error.
        keep_every: checkpoints at multiples of this step stay for ever; 0 for none.
        parent: name of the checkpoint that the run was resumed from.
        config_fingerprint: written into every manifest.
        before_write: called in the writer's thread before each is written.
    """

    def __init__(
        self,
        root: Path,
        keep: int,
        on_done: Callable[[Path, int, CheckpointCounters], None],
        on_error: Callable[[int, Exception], None],
        *,
        keep_every: int = 0,
        parent: str | None = None,
        config_fingerprint: str = "",
        before_write: Callable[[], None] = lambda: None,
    ) -> None:
        self._root, self._keep, self._keep_every = root, keep, keep_every
        self._on_done, self._on_error = on_done, on_error
        self._parent, self._config_fingerprint = parent, config_fingerprint
        self._before_write = before_write
        self._grandparent: str | None = None
        self._counters = CheckpointCounters()
        self._closed = False
        self._work: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        for path in remove_leftovers(root):
            log.warning("cleared %s, left by a crash while a checkpoint was written", path)
        self._thread = threading.Thread(target=self._run, name="checkpoint-writer", daemon=True)
        self._thread.start()

    @property
    def counters(self) -> CheckpointCounters:
        return self._counters

    def save(
        self,
        snapshot: Snapshot,
        step: int,
        info: Mapping[str, Any] | None = None,
        *,
        parent: str | None = None,
    ) -> Future[Path]:
        """Have a snapshot written; takes it over and releases it. Returns at once.

        Args:
            parent: name of the checkpoint that the run was rolled back to since the last save;
                by default the parent is the checkpoint written before this one.

        Returns:
            A future with the path, or with the error when it could not be written.
        """
        if self._closed:
            snapshot.release()
            raise OperatorError("a checkpoint was asked for after the writer was closed")
        future: Future[Path] = Future()
        future.set_running_or_notify_cancel()  # from here on nobody can cancel it
        self._work.put(_Work(snapshot, step, dict(info or {}), parent, future))
        return future

    def close(self, timeout_seconds: float | None = None) -> bool:
        """Write what is waiting, then end the thread. False when the timeout came first."""
        if not self._closed:
            self._closed = True
            self._work.put(None)
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                path = self._write(work)
            except Exception as error:  # whatever it is, the next checkpoint may succeed
                self._failed(work, error)
            else:
                work.future.set_result(path)
                _tell(partial(self._on_done, path, work.step, self._counters))

    def _write(self, work: _Work) -> Path:
        began, size_bytes = time.monotonic(), work.snapshot.size_bytes
        parent = work.parent or self._parent
        if parent == checkpoint_name(work.step):  # this one takes its place, and its parent
            parent = self._grandparent
        try:
            self._before_write()
            path = write_checkpoint(
                self._root, work.snapshot, work.step, parent, work.info,
                config_fingerprint=self._config_fingerprint,
            )  # fmt: skip
        finally:
            work.snapshot.release()
        self._parent, self._grandparent = path.name, parent
        self._counters = replace(
            self._counters,
            written=self._counters.written + 1,
            last_duration_seconds=time.monotonic() - began,
            last_success_timestamp_seconds=time.time(),
            last_size_bytes=size_bytes,
            last_path=path,
            failing=False,
        )
        log.info("checkpoint %s written, %d bytes of tensors", path, size_bytes)
        self._prune(path)
        return path

    def _prune(self, written: Path) -> None:
        try:
            prune(self._root, self._keep, self._keep_every, good=written)
        except OSError as error:
            log.warning("old checkpoints in %s cannot be removed: %s", self._root, error)

    def _failed(self, work: _Work, error: Exception) -> None:
        self._counters = replace(self._counters, failures=self._counters.failures + 1, failing=True)
        work.future.set_exception(error)  # first of all: somebody may wait for it
        log.error("checkpoint of step %d failed, %s stay: %s", work.step, self._kept(), error)
        _tell(partial(self._on_error, work.step, error))

    def _kept(self) -> str:
        try:
            return f"{len(list_checkpoints(self._root))} earlier ones"
        except OSError:  # the directory itself cannot be read
            return "earlier ones"


@dataclass(frozen=True)
class _Work:
    snapshot: Snapshot
    step: int
    info: Mapping[str, Any]
    parent: str | None
    future: Future[Path]


def _tell(call: Callable[[], None]) -> None:
    try:
        call()
    except Exception:
        log.exception("a listener of the checkpoint writer raised")
