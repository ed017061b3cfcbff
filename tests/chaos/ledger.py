"""A producer's own book: which rows it was about to push, on the disk before it pushed them."""

from __future__ import annotations

import os
from pathlib import Path


class Ledger:
    """Written by the producer's process.

    Args:
        synced: every line is on the disk before it counts; else it survives the process only.
    """

    def __init__(self, path: Path, *, synced: bool = True) -> None:
        self._synced = synced
        self._file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)

    def going_on(self, row: int) -> None:
        """This process begins here; what was about to be pushed behind it never was."""
        self.pushing(row, row)

    def pushing(self, start: int, stop: int) -> None:
        """Rows `[start, stop)` are about to be pushed."""
        os.write(self._file, f"{start} {stop}\n".encode())
        if self._synced:
            os.fdatasync(self._file)

    def close(self) -> None:
        os.close(self._file)


def produced_rows(path: Path) -> int:
    """How many rows the producer has pushed so far; it does so without gaps, from 0 on.

    A simulation that was killed goes on where the service, or its window, says. What it had
    announced behind that and not pushed, it makes again; and what it had pushed it must not.
    """
    lines = path.read_text().splitlines() if path.exists() else []
    most = 0
    for line in lines:
        start, stop = map(int, line.split())
        assert start <= most, f"{path} goes on at row {start} after {most}"
        most = stop
    return most
