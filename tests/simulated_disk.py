"""A disk in memory that behaves as badly as real ones may.

What was written is seen at once, but safe only after `sync`. `lose_power` keeps of every page
some moment between its last sync and now, each page by itself, the last one torn; it forgets any
part of the names, and the size of files that were never synced. A sync that fails forgets in
silence: the pages read as written as long as they are cached, and no later sync writes them.
Whoever wants errors, short writes, crashes or delays sets `before`, which is asked before every
operation and may raise.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from insitu.stream.log.disk import Bytes

PAGE_BYTES = 4096
SECTOR_BYTES = 512


class Crashed(BaseException):
    """The process ends in the middle of an operation. Nobody may catch it and go on."""


class Partly(Exception):  # noqa: N818
    """Raised by `before` a write: do so many bytes of it, then raise the error."""

    def __init__(self, size_bytes: int, error: BaseException) -> None:
        super().__init__(size_bytes)
        self.size_bytes = size_bytes
        self.error = error


@dataclass(frozen=True)
class Operation:
    """What is about to happen."""

    name: str  # create, open, rename, remove, sync_names, write, read, clear, sync
    file: str
    size_bytes: int = 0


@dataclass
class _Content:
    """A file's bytes: as they are on the disk, as they read, and what happened in between."""

    size_bytes: int
    safe: bytearray
    seen: bytearray
    #: page -> its bytes after every change since the last sync
    changes: dict[int, list[bytes]] = field(default_factory=dict)
    ever_synced: bool = False

    @classmethod
    def zeros(cls, size_bytes: int) -> _Content:
        return cls(size_bytes, bytearray(size_bytes), bytearray(size_bytes))

    def change(self, offset: int, data: bytes) -> None:
        end = offset + len(data)
        if end > len(self.seen):
            self.seen.extend(bytes(end - len(self.seen)))
            self.size_bytes = end
        self.seen[offset:end] = data
        for page in range(offset // PAGE_BYTES, -(-end // PAGE_BYTES)):
            now = bytes(self.seen[page * PAGE_BYTES : (page + 1) * PAGE_BYTES])
            self.changes.setdefault(page, []).append(now)

    def keep(self, page: int, data: bytes) -> None:
        """Let these bytes of a page be on the disk."""
        begin = page * PAGE_BYTES
        if len(self.safe) < begin + len(data):
            self.safe.extend(bytes(begin + len(data) - len(self.safe)))
        self.safe[begin : begin + len(data)] = data

    def sync(self) -> None:
        for page, versions in self.changes.items():
            self.keep(page, versions[-1])
        self.changes.clear()
        self.ever_synced = True

    def forget(self, random: Random) -> None:
        """A failed sync: some pages got there, the others never will, and all seem to be clean."""
        for page, versions in self.changes.items():
            if random.random() < 0.5:
                self.keep(page, versions[-1])
        self.changes.clear()

    def drop_cache(self) -> None:
        """What reads as written although it is neither safe nor on its way reads as it is."""
        for page in range(-(-len(self.seen) // PAGE_BYTES)):
            if page not in self.changes:
                begin, end = page * PAGE_BYTES, (page + 1) * PAGE_BYTES
                safe = bytes(self.safe[begin:end])
                width = len(self.seen[begin:end])
                self.seen[begin:end] = safe[:width].ljust(width, b"\0")

    def lose_power(self, random: Random) -> None:
        torn = random.choice([*self.changes, -1])
        for page, versions in self.changes.items():
            kept = random.randint(0, len(versions))
            if kept:
                self.keep(page, versions[kept - 1])
            if page == torn and kept < len(versions):
                sectors = random.randint(0, PAGE_BYTES // SECTOR_BYTES)
                self.keep(page, versions[kept][: sectors * SECTOR_BYTES])
        self.changes.clear()
        if not self.ever_synced and random.random() < 0.2:
            self.size_bytes = random.randint(0, self.size_bytes)
        del self.safe[self.size_bytes :]
        self.safe.extend(bytes(self.size_bytes - len(self.safe)))
        self.seen = bytearray(self.safe)


class SimulatedFile:
    """An open file of a `SimulatedDisk`."""

    def __init__(self, disk: SimulatedDisk, name: str, content: _Content) -> None:
        self._disk = disk
        self._name = name
        self._content = content
        self._life = disk.life
        self._open = True
        disk.open_files += 1

    @property
    def size_bytes(self) -> int:
        return self._content.size_bytes

    def write(self, offset_bytes: int, buffers: Sequence[Bytes]) -> None:
        data = b"".join(buffers)
        try:
            self._ask("write", len(data))
        except Partly as partly:
            self._content.change(offset_bytes, data[: partly.size_bytes])
            raise partly.error from None
        self._content.change(offset_bytes, data)

    def read_into(self, offset_bytes: int, target: memoryview) -> int:
        self._ask("read", len(target))
        data = self._content.seen[offset_bytes : offset_bytes + len(target)]
        target[: len(data)] = data
        return len(data)

    def clear_from(self, offset_bytes: int) -> None:
        self._ask("clear", self.size_bytes - offset_bytes)
        self._content.change(offset_bytes, bytes(self.size_bytes - offset_bytes))

    def sync(self) -> None:
        try:
            self._ask("sync", 0)
        except OSError:
            self._content.forget(self._disk.random)
            raise
        self._content.sync()

    def drop_cache(self) -> None:
        self._content.drop_cache()

    def close(self) -> None:
        assert self._open, f"{self._name} is closed twice"
        self._open = False
        if self._life == self._disk.life:
            self._disk.open_files -= 1

    def _ask(self, name: str, size_bytes: int) -> None:
        assert self._open, f"{name} of {self._name}, which is closed"
        assert self._life == self._disk.life, f"{self._name} was opened before the crash"
        self._disk.ask(Operation(name, self._name, size_bytes))


class SimulatedDisk:
    """A directory in memory.

    Args:
        random: of what fails and what is forgotten.

    Attributes:
        before: asked before every operation; may raise OSError, `Crashed`, or `Partly`.
        open_files: how many files are open: 0 after everybody let go.
    """

    def __init__(self, random: Random) -> None:
        self.random = random
        self.before: Callable[[Operation], None] = lambda _operation: None
        self.open_files = 0
        self.life = 0
        self._names: dict[str, _Content] = {}
        self._safe_names: dict[str, _Content] = {}
        self._changes: list[tuple[str, _Content | None]] = []

    # ---- what the log asks for ------------------------------------------------------------

    def names(self) -> list[str]:
        return list(self._names)

    def create(self, name: str, size_bytes: int) -> SimulatedFile:
        self.ask(Operation("create", name, size_bytes))
        if name in self._names:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
        content = _Content.zeros(size_bytes)
        self._rename(name, content)
        return SimulatedFile(self, name, content)

    def open(self, name: str) -> SimulatedFile:
        self.ask(Operation("open", name))
        if name not in self._names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return SimulatedFile(self, name, self._names[name])

    def rename(self, old: str, new: str) -> None:
        self.ask(Operation("rename", new))
        content = self._names[old]
        self._rename(new, content)
        self._rename(old, None)

    def remove(self, name: str) -> None:
        self.ask(Operation("remove", name))
        self._names[name]  # KeyError: the log removes what is not there
        self._rename(name, None)

    def sync_names(self) -> None:
        self.ask(Operation("sync_names", ""))
        self._safe_names = dict(self._names)
        self._changes.clear()

    # ---- what the world does --------------------------------------------------------------

    def ask(self, operation: Operation) -> None:
        """Let `before` have its say."""
        self.before(operation)

    def kill(self) -> None:
        """The process ends; everything that it wrote is seen by the next."""
        self.life += 1
        self.open_files = 0

    def lose_power(self) -> None:
        """The machine stops; what was not synced is there or not, as it falls out."""
        self.kill()
        names = dict(self._safe_names)
        for name, content in self._changes:
            if self.random.random() < 0.5:
                if content is None:
                    names.pop(name, None)
                else:
                    names[name] = content
        self._changes.clear()
        for content in {id(each): each for each in names.values()}.values():
            content.lose_power(self.random)
        self._names, self._safe_names = names, dict(names)

    def bytes_of(self, name: str) -> bytes:
        """A file as it reads now."""
        return bytes(self._names[name].seen)

    def damaged(self, name: str) -> bytearray:
        """The same, all of it safe, to be altered where it lies."""
        content = self._names[name]
        content.sync()
        content.safe = content.seen
        return content.seen

    def put(self, name: str, data: bytes) -> None:
        """A file that somebody else left there, safe."""
        self._names[name] = _Content(len(data), bytearray(data), bytearray(data))
        self._safe_names[name] = self._names[name]

    def _rename(self, name: str, content: _Content | None) -> None:
        if content is None:
            self._names.pop(name, None)
        else:
            self._names[name] = content
        self._changes.append((name, content))
