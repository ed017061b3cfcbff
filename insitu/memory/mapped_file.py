"""A file of equal rows, mapped into memory, that grows and belongs to one process at a time."""

from __future__ import annotations

import fcntl
import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from insitu.errors import OperatorError


class MappedFile:
    """Rows of numbers in a file.

    Args:
        path: of the file.
        dtype: of a number.
        width: numbers a row.
        create: make it, or open one that is there.

    Raises:
        OperatorError: it cannot be opened, or another process has it open.
    """

    def __init__(self, path: Path, dtype: npt.DTypeLike, width: int, *, create: bool) -> None:
        self.path = path
        self._dtype, self._width = np.dtype(dtype), width
        self._row_bytes = self._dtype.itemsize * width
        try:
            flags = os.O_RDWR | (os.O_CREAT | os.O_EXCL if create else 0)
            self._file = os.open(path, flags, 0o640)
        except OSError as error:
            raise OperatorError(
                f"the memory's file {path} cannot be opened: {error.strerror}",
                consequence="the memory on disk cannot be used",
                remedy="is memory.directory the one of the run that is resumed, and writable?",
            ) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise OperatorError(
                f"the memory's file {path} is open in another process",
                consequence="two runs would overwrite each other's samples",
                remedy="stop the other run first",
            ) from error
        #: (count, width) numbers
        self.values: npt.NDArray[Any] = np.zeros((0, width), self._dtype)
        self._map()

    @property
    def count(self) -> int:
        """Rows in the file."""
        return len(self.values)

    def grow(self, count: int) -> None:
        """Have so many rows, the new ones zero; their space is reserved.

        Raises:
            OperatorError: the disk has no room for them.
        """
        try:
            os.posix_fallocate(self._file, 0, count * self._row_bytes)
        except OSError as error:
            raise OperatorError(
                f"the memory's file {self.path} cannot grow to {count * self._row_bytes} bytes: "
                f"{error.strerror}",
                consequence="no sample can be remembered",
                remedy="free space on that disk, lower memory.capacity_samples, or save "
                "checkpoints more often, since replaced samples wait for the next few",
            ) from error
        self._map()

    def close(self) -> None:
        self.values = np.zeros((0, self._width), self._dtype)
        os.close(self._file)

    def _map(self) -> None:
        count = os.fstat(self._file).st_size // self._row_bytes
        if count == 0:
            return
        mapped = mmap.mmap(self._file, count * self._row_bytes)
        mapped.madvise(mmap.MADV_RANDOM)
        self.values = np.frombuffer(mapped, self._dtype).reshape(count, self._width)
