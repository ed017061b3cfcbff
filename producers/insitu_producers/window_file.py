"""The files of a send window that survives its process: a lock, the rows, and the journal.

In the directory, for each stream and producer id: `NAME.lock`, `NAME.rows` (the slabs, mapped
into memory, preallocated), `NAME.journal-0` and `NAME.journal-1`. All are made by and for one
process at a time; the lock goes with the process, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import mmap
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from insitu.errors import InsituError, OperatorError
from insitu.schema import Schema
from insitu.wire.slabs import SlabPool
from insitu.wire.surviving import Operation, SurvivingWindow
from insitu.wire.values import MAX_BATCH_ROWS
from insitu_producers.journal_file import JournalFile

_VERSION = 1


@dataclass(frozen=True, slots=True)
class _Shape:
    """What a window's files are made for."""

    stream: str
    producer_id: str
    epoch: int
    schema: Schema
    slab_rows: int
    slabs: int

    def plain(self) -> list[Any]:
        fields = [[f.name, f.dtype, list(f.shape)] for f in self.schema.fields]
        return [
            _VERSION, self.stream, self.producer_id, self.epoch, fields, self.slab_rows, self.slabs
        ]  # fmt: skip

    @classmethod
    def of(cls, plain: list[Any]) -> _Shape:
        version, stream, producer_id, epoch, fields, slab_rows, slabs = plain
        if version != _VERSION:
            raise ValueError(f"version {version}")
        schema = Schema.of({name: (dtype, tuple(shape)) for name, dtype, shape in fields})
        return cls(stream, producer_id, epoch, schema, slab_rows, slabs)


class WindowFile:
    """The window of one producer in a directory, held for as long as this object is.

    Args:
        directory: on a disk, or in /dev/shm; made if it is missing.
        stream, producer_id: whose window it is.

    Raises:
        OperatorError: another process holds it, or the files cannot be used.
    """

    def __init__(self, directory: Path, stream: str, producer_id: str) -> None:
        self._of = stream, producer_id
        stem = directory / _name(stream, producer_id)
        self._lock_path, self._rows_path = Path(f"{stem}.lock"), Path(f"{stem}.rows")
        self._journal = JournalFile(Path(f"{stem}.journal-0"), Path(f"{stem}.journal-1"))
        self._shape: _Shape | None = None
        self._rows: mmap.mmap | None = None
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = _locked(self._lock_path)
        except OSError as error:
            raise OperatorError(
                f"window_directory {directory} cannot be used: {error.strerror}",
                remedy="give a directory that this process may write to",
            ) from None

    # -- a window, new or recovered --------------------------------------------------------------

    def recover(self) -> tuple[SurvivingWindow, int] | None:
        """The window that a former process left, and its epoch; None if there is none.

        Raises:
            OperatorError: the files are damaged, or those of another release.
        """
        operations = self._journal.read()
        if operations is None:
            return None
        try:
            name, plain, *state = operations[0]
            self._shape = shape = _Shape.of(plain)
            pool = self._map(shape, create=False)
            window = SurvivingWindow(shape.schema, pool, self)
            window.replay([[name, *state], *operations[1:]])
        except (InsituError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise OperatorError(
                f"the window's files {self._rows_path} are not understood: {error!r}",
                consequence="what a former producer had not delivered cannot be sent again",
                remedy="remove them; the simulation goes on from the service's last_cursor",
            ) from None
        self._begin(window.state(), 0)
        return window, shape.epoch

    def create(self, schema: Schema, epoch: int, window_bytes: int) -> SurvivingWindow:
        """A new window; what a former process left is gone.

        Raises:
            OperatorError: there is no room for it.
        """
        sized = SlabPool.sized(schema, window_bytes, MAX_BATCH_ROWS)
        self._journal.remove()
        self._shape = _Shape(*self._of, epoch, schema, sized.slab_rows, sized.slabs)
        window = SurvivingWindow(schema, self._map(self._shape, create=True), self)
        self._begin(window.state(), 0)
        return window

    def _map(self, shape: _Shape, *, create: bool) -> SlabPool:
        size = shape.slabs * shape.slab_rows * shape.schema.row_bytes
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_TRUNC if create else 0)
        try:
            descriptor = os.open(self._rows_path, flags, 0o600)
            try:
                if create:
                    os.posix_fallocate(descriptor, 0, size)
                self._rows = mmap.mmap(descriptor, size)
            finally:
                os.close(descriptor)
        except (OSError, ValueError) as error:
            raise OperatorError(
                f"no room for the window: {self._rows_path} with {size} bytes: {error}",
                remedy="give less window_bytes, or another window_directory",
            ) from None
        return SlabPool(shape.schema, shape.slab_rows, shape.slabs, self._memory)

    def _memory(self, number: int, size_bytes: int) -> NDArray[np.uint8]:
        assert self._rows is not None
        return np.frombuffer(self._rows, np.uint8, size_bytes, number * size_bytes)

    # -- the journal of the window ---------------------------------------------------------------

    def _begin(self, state: Operation, least_bytes: int) -> None:
        assert self._shape is not None
        self._journal.begin([state[0], self._shape.plain(), *state[1:]], least_bytes)

    def write(self, operation: Operation, state: Callable[[], Operation]) -> None:
        """Append an operation of the window."""
        assert self._shape is not None
        plain = self._shape.plain

        def whole() -> Operation:
            name, *rest = state()
            return [name, plain(), *rest]

        self._journal.write(operation, whole)

    # -- the end ---------------------------------------------------------------------------------

    def close(self, *, remove: bool) -> None:
        """Let go of it; `remove` when nothing is left in it, else the next process finds it."""
        if self._lock < 0:
            return
        if remove:
            self._journal.remove()
            for path in (self._rows_path, self._lock_path):
                with contextlib.suppress(OSError):
                    path.unlink()
        self._journal.close()
        os.close(self._lock)
        self._lock = -1


def _name(stream: str, producer_id: str) -> str:
    """Of the files: readable as far as it goes, and different for different producers."""
    readable = re.sub(r"[^A-Za-z0-9_.-]", "_", producer_id)[:40].lstrip(".")
    digest = hashlib.blake2b(f"{stream}\0{producer_id}".encode(), digest_size=6).hexdigest()
    return f"{readable}-{digest}"


def _locked(path: Path) -> int:
    """A descriptor that holds the lock.

    Raises:
        OperatorError: another process holds it.
        OSError: there can be no lock here.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:  # else its holder has just removed it
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, str(os.getpid()).encode(), 0)
                return descriptor
        except BlockingIOError:
            holder = os.pread(descriptor, 20, 0).decode(errors="replace")
            os.close(descriptor)
            raise OperatorError(
                f"the window {path} is held by process {holder or 'unknown'}",
                consequence="two producers must not go on with the same window",
                remedy="end that process (its children, too), or use another producer_id",
            ) from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
