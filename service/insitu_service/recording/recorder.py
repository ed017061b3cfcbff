"""The recorder: when to checkpoint, what belongs to one, and how to come back from one.

Called by the learner only, between two steps, so that what it gathers is of one instant. The
writing happens in `CheckpointWriter`'s thread; the learner pays for the copy.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

from insitu.checkpoint import (
    CheckpointFailed,
    NoGoodCheckpoint,
    Snapshot,
    SnapshotBuffers,
    newest_good,
)
from insitu.errors import OperatorError
from insitu_service.recording.checkpoint_writer import CheckpointWriter

_log = logging.getLogger("insitu.recorder")

#: how long the last checkpoint of a run may wait for the writer to give memory back
_LAST_CAPTURE_SECONDS = 120.0


class Stateful(Protocol):
    """A part whose state belongs in the checkpoint."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class Recorder:
    """Saves and restores the state of all parts of the service.

    Args:
        parts: name -> part, in the order in which their states are taken.
        root: directory of the checkpoints; None when the service keeps none.
        writer: writes them; None together with `root`.
        every_steps, every_seconds: when a checkpoint is due; None for never.
        on_stop: whether one is written at the end.
        retain_start: write one before the first step, so that a roll back always has a place.
        roll_back_at_most: roll backs in a row, without a new checkpoint, before giving up.
        optional: parts that are left out while they have no state.
        describe: what of a state belongs into the manifest's info too, to be read without it.
    """

    def __init__(
        self,
        parts: Mapping[str, Stateful],
        root: Path | None,
        writer: CheckpointWriter | None,
        buffers: SnapshotBuffers,
        *,
        every_steps: int | None = None,
        every_seconds: float | None = None,
        on_stop: bool = True,
        retain_start: bool = False,
        roll_back_at_most: int = 3,
        optional: Mapping[str, Stateful] | None = None,
        describe: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda state: {},
    ) -> None:
        self._parts = parts
        self._optional = optional or {}
        self._root = root
        self._writer = writer
        self._buffers = buffers
        self._every_steps = every_steps
        self._every_seconds = every_seconds
        self._on_stop = on_stop
        self._retain_start = retain_start
        self._roll_backs_left = roll_back_at_most
        self._roll_back_at_most = roll_back_at_most
        self._describe = describe
        self._info: dict[str, Any] = {}
        self._saved_step = -1
        self._saved_at = time.monotonic()
        self._pending: Future[Path] | None = None
        self._parent: str | None = None
        #: name of the checkpoint that the run was resumed from
        self.resumed_from: str | None = None
        #: checkpoints that were due and were left out because the disk had not kept up
        self.late_checkpoints = 0
        #: seconds that the learner was held by the newest capture
        self.capture_seconds = 0.0

    def reschedule(self, every_steps: int | None, every_seconds: float | None) -> None:
        """Change when a checkpoint is due, while running."""
        self._every_steps, self._every_seconds = every_steps, every_seconds

    @property
    def keeps_checkpoints(self) -> bool:
        return self._writer is not None

    def begin(self, step: int) -> None:
        """The learner starts at this step."""
        self._saved_step, self._saved_at = step, time.monotonic()
        if self._writer is not None:
            self._buffers.warm(self._gather())
            if self._retain_start:
                self.save(step)

    def save_if_due(self, step: int) -> None:
        by_steps = self._every_steps is not None and step - self._saved_step >= self._every_steps
        elapsed = time.monotonic() - self._saved_at
        by_time = self._every_seconds is not None and elapsed >= self._every_seconds
        if (by_steps or by_time) and step != self._saved_step:
            self.save(step)

    def save(self, step: int, done: Future[dict[str, Any]] | None = None) -> None:
        """Have the state of this instant written; `done` hears the path, or why not."""
        if self._writer is None:
            if done is not None:
                done.set_exception(_no_directory())
            return
        self._saved_step, self._saved_at = step, time.monotonic()
        snapshot = self._capture(0.0 if done is None else _LAST_CAPTURE_SECONDS)
        if snapshot is None:
            self.late_checkpoints += 1
            _log.warning("the checkpoint of step %d is left out: two are still being written", step)
            if done is not None:
                done.set_exception(OperatorError("the disk has not kept up with checkpoints"))
            return
        self._pending = self._write(self._writer, snapshot, step)
        self._roll_backs_left = self._roll_back_at_most
        if done is not None:
            self._pending.add_done_callback(lambda path: _tell(done, path))

    def save_at_end(self, step: int) -> None:
        """The last checkpoint of a run, if one is wanted; waits until it is on the disk.

        Raises:
            CheckpointFailed: it is not.
        """
        if self._writer is None or not self._on_stop:
            return
        snapshot = self._capture(_LAST_CAPTURE_SECONDS)
        if snapshot is None:
            raise CheckpointFailed("the disk did not take the checkpoints before the last one")
        self._saved_step = step
        self._write(self._writer, snapshot, step).result()

    def restore(self) -> Path:
        """Load the newest good checkpoint into all parts; reports damaged ones on the way.

        Raises:
            OperatorError: there is none, or it is of another configuration.
        """
        path, state = self._newest()
        for name, part in self._parts.items():
            if name not in state:
                raise OperatorError(f"checkpoint {path} holds no state of {name!r}")
            part.load_state_dict(state[name])
        for name, part in self._optional.items():
            if name in state:
                part.load_state_dict(state[name])
        self.resumed_from = self._parent = path.name
        return path

    @property
    def can_roll_back(self) -> bool:
        return self._root is not None and self._roll_backs_left > 0

    def roll_back(self, name: str) -> Path:
        """Load one part alone from the newest good checkpoint; the stream goes on where it is."""
        self._roll_backs_left -= 1
        if self._pending is not None:
            self._pending.exception()  # what is being written may be the newest
        path, state = self._newest()
        self._parts[name].load_state_dict(state[name])
        self._parent = path.name
        return path

    def _newest(self) -> tuple[Path, Any]:
        if self._root is None:
            raise _no_directory()
        found = newest_good(self._root)
        if found is None:
            raise NoGoodCheckpoint(
                f"there is no checkpoint in {self._root}",
                consequence="there is nothing to resume from",
                remedy="start without --resume",
            )
        for damage in found.damaged:
            _log.error("a damaged checkpoint is passed over: %s", damage)
        return found.path, found.state

    def _write(self, writer: CheckpointWriter, snapshot: Snapshot, step: int) -> Future[Path]:
        """Hand a snapshot over; the first after a restore names where it came from."""
        parent, self._parent = self._parent, None
        return writer.save(snapshot, step, self._info, parent=parent)

    def _capture(self, timeout_seconds: float) -> Snapshot | None:
        began = time.perf_counter()
        state = self._gather()
        self._info = self._describe(state)
        snapshot = self._buffers.capture(state, timeout_seconds)
        self.capture_seconds = time.perf_counter() - began
        return snapshot

    def _gather(self) -> dict[str, Any]:
        state = {name: part.state_dict() for name, part in self._parts.items()}
        optional = {name: part.state_dict() for name, part in self._optional.items()}
        return state | {name: each for name, each in optional.items() if each}


def _tell(done: Future[dict[str, Any]], written: Future[Path]) -> None:
    problem = written.exception()
    if problem is not None:
        done.set_exception(problem)
    else:
        done.set_result({"path": str(written.result())})


def _no_directory() -> OperatorError:
    return OperatorError(
        "checkpoint.directory is not set",
        consequence="there are no checkpoints",
        remedy="set it in the configuration",
    )
