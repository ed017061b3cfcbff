"""What is written and not safe yet, and making it safe: shared by the two threads of a log."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

from insitu.stream.log.disk import Disk, File
from insitu.stream.log.errors import LogFailed
from insitu.stream.log.tail import opened

_Named = tuple[str, File]


class Unsynced:
    """Files and names that a loss of power may take.

    Args:
        disk: where they are.
        kept_files: so many that are safe stay in memory, since they may be written over.

    Attributes:
        broken: why nothing can be written or synced any more; empty while all is well.
        active: the file that is being written.
    """

    def __init__(self, disk: Disk, kept_files: int) -> None:
        self.broken = ""
        self.active: File | None = None
        self._disk = disk
        self._active_name = ""
        self._sealed: list[_Named] = []
        self._kept_files = kept_files
        self._kept: deque[_Named] = deque()
        self._found: list[str] = []
        self._names_changed = True
        self._lock = threading.Lock()  # of the attributes; held for no system call
        self._syncing = threading.Lock()  # one sync at a time

    @property
    def has_new_names(self) -> bool:
        """Whether files were begun, or found by recovery, since the last sync."""
        return self._names_changed

    @property
    def has_sealed(self) -> bool:
        """Whether a full file waits to be safe."""
        return bool(self._sealed)

    def check_usable(self) -> None:
        """Raise `LogFailed` when the log is broken."""
        if self.broken:
            raise self._unusable()

    def found(self, file: File | None, earlier: list[str]) -> None:
        """What recovery found: the last file, and names of those before it, maybe many."""
        self.active, self._found = file, list(earlier)

    def begin(self, file: File, name: str) -> None:
        """Write to this file from now on; the one before is sealed."""
        with self._lock:
            if self.active is not None:
                self._sealed.append((self._active_name, self.active))
            self.active, self._active_name, self._names_changed = file, name, True

    def forget(self, name: str) -> None:
        """This file, which is safe, is removed or gets another name; its memory stays."""
        with self._lock:
            found = [each for each in self._kept if each[0] == name]
            self._kept = deque(each for each in self._kept if each[0] != name)
        for _, file in found:
            file.close()

    def sync(self) -> None:
        """Make everything safe that was written before this call."""
        with self._syncing:
            self.check_usable()
            with self._lock:
                sealed, active = list(self._sealed), self.active
                names, self._names_changed = self._names_changed, False
            files = [file for _, file in sealed]
            self._sync([*files, active] if active is not None else files, names=names)
            self._drop(sealed)

    def sync_sealed(self) -> None:
        """Make everything safe but what is in the active file. For the thread that writes."""
        if self._sealed:  # looked at without the lock: only this thread makes it longer
            with self._syncing:
                self.check_usable()
                sealed = list(self._sealed)
                self._sync([file for _, file in sealed], names=False)
                self._drop(sealed)

    def sync_active(self) -> None:
        """Make the active file safe. For the thread that writes."""
        assert self.active is not None
        self._sync([self.active], names=False)

    def sync_names(self) -> None:
        """Make the names of all files safe. For the thread that writes."""
        try:
            self._disk.sync_names()
        except OSError as error:
            raise self._broken_by(error) from error

    def close(self) -> None:
        """Let go of all files."""
        with self._syncing, self._lock:
            for _, file in (*self._sealed, *self._kept):
                file.close()
            if self.active is not None:
                self.active.close()
            self._sealed, self._kept, self.active = [], deque(), None
            self.broken = self.broken or "it is closed"

    def _sync(self, files: Sequence[File], *, names: bool) -> None:
        try:
            for file in files:
                file.sync()
            if names:
                self._sync_found()
                self._disk.sync_names()
        except OSError as error:
            raise self._broken_by(error) from error

    def _sync_found(self) -> None:
        for name in self._found:
            with suppress(FileNotFoundError), opened(self._disk, name) as file:
                file.sync()
        self._found = []

    def _drop(self, files: Sequence[_Named]) -> None:
        """Let go of files that are safe, but for the newest, and of the memory that they take.

        What was logged is trained from the ring. New pages of the cache for every segment cost
        more than writing into those of an old one, be it the same file or another.
        """
        with self._lock:
            self._sealed = [each for each in self._sealed if each not in files]
            self._kept.extend(files)
            surplus = [self._kept.popleft() for _ in range(len(self._kept) - self._kept_files)]
        for _, file in surplus:
            with suppress(OSError):
                file.drop_cache()
            file.close()

    def _broken_by(self, error: OSError) -> LogFailed:
        self.broken = f"it could not be synced ({error.strerror or error})"
        return self._unusable()

    def _unusable(self) -> LogFailed:
        return LogFailed(
            f"the log takes nothing more: {self.broken}",
            consequence="nothing more is accepted",
            remedy="see to the disk, then restart the service",
        )
