"""Every operation on files that the log does, and these operations on a real directory.

The log asks nothing else of a machine, so a simulated disk that forgets, tears, fills up or
fails can take the real one's place.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from insitu.stream.log.errors import LogInUse, write_error

#: what a file may be made of or read into: contiguous bytes
Bytes = bytes | bytearray | memoryview

LOCK_NAME = "lock"
_MOST_BUFFERS = 1024  # IOV_MAX of Linux


class File(Protocol):
    """One open file. Whatever was not written reads as zeros, up to `size_bytes`.

    Every method but `close` may raise OSError.
    """

    @property
    def size_bytes(self) -> int:
        """Where the file ends."""

    def write(self, offset_bytes: int, buffers: Sequence[Bytes]) -> None:
        """Write the buffers one behind the other; all, or raise, with any part written."""

    def read_into(self, offset_bytes: int, target: memoryview) -> int:
        """Fill `target`, and return how many bytes; fewer only where the file ends."""

    def clear_from(self, offset_bytes: int) -> None:
        """Make everything from there on read as zeros, with its room still reserved."""

    def sync(self) -> None:
        """Return when everything written or cleared before is safe from loss of power."""

    def drop_cache(self) -> None:
        """Keep nothing in memory but what still has to be written.

        So that what is read afterwards is what the device has; a sync that failed leaves pages
        that only seem to be there.
        """

    def close(self) -> None:
        """Let go of the file; nothing is synced."""


class Disk(Protocol):
    """One directory. Every method may raise OSError."""

    def names(self) -> list[str]:
        """Of the files in it, in no order."""

    def create(self, name: str, size_bytes: int) -> File:
        """A new file of so many zeros whose room is reserved; leaves nothing when it fails.

        Raises:
            FileExistsError: there is one of this name.
        """

    def open(self, name: str) -> File:
        """A file that is there."""

    def rename(self, old: str, new: str) -> None:
        """Give a file another name, at once; a file that had that name is forgotten."""

    def remove(self, name: str) -> None:
        """Forget a name; whoever has the file open can go on reading it."""

    def sync_names(self) -> None:
        """Return when all names created, changed or removed before are safe from loss of power."""


class FileSystemFile:
    """A file of a `FileSystemDisk`.

    Reads and writes are positioned system calls. Copying into a mapping was slower where pages
    are new, no faster to read from, and turns a bad sector into a killed process.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @property
    def size_bytes(self) -> int:
        return os.fstat(self._descriptor).st_size

    def write(self, offset_bytes: int, buffers: Sequence[Bytes]) -> None:
        rest = [each for each in buffers if len(each)]
        while rest:  # signals and disks that fill up make short writes
            written = os.pwritev(self._descriptor, rest[:_MOST_BUFFERS], offset_bytes)
            offset_bytes += written
            rest = _behind(rest, written)

    def read_into(self, offset_bytes: int, target: memoryview) -> int:
        filled = 0
        while filled < len(target):
            count = os.preadv(self._descriptor, [target[filled:]], offset_bytes + filled)
            if count == 0:
                break
            filled += count
        return filled

    def clear_from(self, offset_bytes: int) -> None:
        size_bytes = self.size_bytes
        os.ftruncate(self._descriptor, offset_bytes)
        if size_bytes > offset_bytes:
            os.posix_fallocate(self._descriptor, offset_bytes, size_bytes - offset_bytes)

    def sync(self) -> None:
        os.fdatasync(self._descriptor)

    def drop_cache(self) -> None:
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        os.close(self._descriptor)


class FileSystemDisk:
    r"""A real directory: made when it is missing, for its owner only, and locked.

    Args:
        directory: of one log and nothing else; what the log does not know it leaves alone.
        writable: False only reads, without a lock, also beside a running service.

    Raises:
        LogInUse: another process writes to it.
        LogFailed: it cannot be made or opened.

    Example:
        >>> import tempfile
        >>> disk = FileSystemDisk(Path(tempfile.mkdtemp()) / "log")
        >>> file = disk.create("a", 4096)
        >>> file.write(10, [b"one", b"two"])
        >>> target = memoryview(bytearray(8))
        >>> file.read_into(9, target), bytes(target)
        (8, b'\x00onetwo\x00')
        >>> file.close()
        >>> disk.close()
    """

    def __init__(self, directory: Path, *, writable: bool = True) -> None:
        self.directory = directory
        self._writable = writable
        self._lock = -1
        try:
            if writable:
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._take_lock()
            self._descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            self._drop_lock()
            raise write_error(f"the log's directory {directory} cannot be used", error) from error

    def names(self) -> list[str]:
        return os.listdir(self.directory)

    def create(self, name: str, size_bytes: int) -> File:
        path = self.directory / name
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            if size_bytes:
                os.posix_fallocate(descriptor, 0, size_bytes)
        except BaseException:
            os.close(descriptor)
            path.unlink()
            raise
        return FileSystemFile(descriptor)

    def open(self, name: str) -> File:
        mode = os.O_RDWR if self._writable else os.O_RDONLY
        descriptor = os.open(self.directory / name, mode | os.O_NOFOLLOW)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)  # a fifth faster from a disk
        return FileSystemFile(descriptor)

    def rename(self, old: str, new: str) -> None:
        (self.directory / old).rename(self.directory / new)

    def remove(self, name: str) -> None:
        (self.directory / name).unlink()

    def sync_names(self) -> None:
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Give the lock back."""
        os.close(self._descriptor)
        self._drop_lock()

    def _take_lock(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        self._lock = os.open(self.directory / LOCK_NAME, flags, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            self._drop_lock()
            raise LogInUse(
                f"another service writes the log in {self.directory}",
                consequence="this one does not start: two would ruin the log for each other",
                remedy="stop the other, or give this one a directory of its own",
            ) from None

    def _drop_lock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _behind(buffers: list[Bytes], written: int) -> list[Bytes]:
    """What is left of some buffers after so many bytes of them."""
    for index, each in enumerate(buffers):
        if written < len(each):
            return [each[written:] if written else each, *buffers[index + 1 :]]
        written -= len(each)
    return []
