"""What a disk may hold after a loss of power, made of what `plugins/chaos_power.py` remembers.

Of every directory: the names that were synced, and of later changes to them some. Of every file:
the bytes that were synced, and of pages that were written later some, so that records are torn
and holes come before what follows them.
"""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

_PAGE_BYTES = 4096


class Shadow:
    """The memory of what was synced, of one life of a service.

    Args:
        directory: where the shim keeps it.
        roots: the directories that are subject to it; they are there from the start.
    """

    def __init__(self, directory: Path, roots: list[Path]) -> None:
        self._directory = directory
        self._roots = roots

    def begin(self) -> None:
        """Before a service starts: all that is there now is on the disk."""
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir(parents=True)
        for root in self._roots:
            root.mkdir(parents=True, exist_ok=True)
            for path in [root, *root.rglob("*")]:
                self._remember(path)

    def _remember(self, path: Path) -> None:
        number = path.stat().st_ino
        if path.is_dir():
            names = {each.name: each.stat().st_ino for each in path.iterdir()}
            (self._directory / f"names-{number}").write_text(json.dumps(names))
        else:
            (self._directory / f"bytes-{number}").write_bytes(path.read_bytes())
            (self._directory / f"file-{number}").hardlink_to(path)

    def lose_power(self, source: random.Random) -> int:
        """After the service was killed: leave what a disk may hold; how many bytes were forgotten.

        A name that was removed or changed may come back, one that was made may be missing, as long
        as no sync of its directory came after.
        """
        forgotten = 0
        for root in self._roots:
            after = root.with_name(root.name + ".after")
            after.mkdir()
            after.chmod(root.stat().st_mode & 0o7777)
            forgotten += self._restore(root, root.stat().st_ino, after, source)
            shutil.rmtree(root)
            after.rename(root)
        return forgotten

    def _restore(self, now: Path | None, number: int, after: Path, source: random.Random) -> int:
        """Fill `after` from a directory with this number, which `now` still is if it is there."""
        forgotten = 0
        names = self._synced_names(number)
        if now is not None:
            _change_some(names, now, source)
        for name, inside in names.items():
            there = now / name if now is not None and (now / name).exists() else None
            if there is not None and there.stat().st_ino != inside:
                there = None
            if self._is_directory(inside, there):
                (after / name).mkdir(mode=0o700)
                forgotten += self._restore(there, inside, after / name, source)
            else:
                forgotten += self._restore_file(inside, there, after / name, source)
        return forgotten

    def _is_directory(self, number: int, there: Path | None) -> bool:
        return (self._directory / f"names-{number}").exists() or (
            there is not None and there.is_dir()
        )

    def _synced_names(self, number: int) -> dict[str, int]:
        path = self._directory / f"names-{number}"
        names: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
        return names

    def _restore_file(
        self, number: int, there: Path | None, after: Path, source: random.Random
    ) -> int:
        """The synced bytes with some of the pages that were written later."""
        kept, held = (self._directory / f"{kind}-{number}" for kind in ("bytes", "file"))
        synced = kept.read_bytes() if kept.exists() else b""
        newest = there if there is not None else held if held.exists() else None
        written = newest.read_bytes() if newest is not None else synced
        size = len(synced) if source.random() < 0.5 else len(written)
        share, forgotten = source.random(), 0
        result = bytearray(size)
        for start in range(0, size, _PAGE_BYTES):
            page = slice(start, min(start + _PAGE_BYTES, size))
            old, new = (_padded(data, page) for data in (synced, written))
            if old != new and source.random() < share:
                forgotten += len(old)
                new = old
            result[page] = new
        after.write_bytes(result)
        after.chmod(0o600)
        return forgotten


def _change_some(names: dict[str, int], now: Path, source: random.Random) -> None:
    """Let some of the changes of names since the last sync come through; a rename whole or not."""
    numbers = {path.name: path.stat().st_ino for path in now.iterdir()}
    for name, number in numbers.items():
        if names.get(name) != number and source.random() < 0.5:
            for old in [each for each, inside in names.items() if inside == number]:
                del names[old]
            names[name] = number
    for name in [*names]:
        removed = name not in numbers and names[name] not in numbers.values()
        if removed and source.random() < 0.5:
            del names[name]


def _padded(data: bytes, page: slice) -> bytes:
    """A page of a file; zeros where it ends before."""
    return data[page].ljust(page.stop - page.start, b"\0")
