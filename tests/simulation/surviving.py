"""What outlives a producer that is killed: the memory of its window, and the journal beside it."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import msgpack
import numpy as np
from numpy.typing import NDArray

from insitu.wire.slabs import SlabPool
from insitu.wire.surviving import Operation, SurvivingWindow
from insitu.wire.values import MAX_BATCH_ROWS
from simulation.samples import SCHEMA


class Killed(BaseException):
    """The producer's process ends in the middle of an operation."""


class WindowStore:
    """As `insitu_producers.window_file.WindowFile` keeps it, without files.

    Args:
        random: says when the journal begins anew.
    """

    def __init__(self, window_bytes: int, random: Random) -> None:
        #: the process dies at so many writes from now on
        self.dies_after_writes: int | None = None
        self._window_bytes = window_bytes
        self._random = random
        self._slabs: dict[int, NDArray[np.uint8]] = {}
        self._journal: list[bytes] = []

    def window(self) -> SurvivingWindow:
        """The window as the last life left it."""
        self.dies_after_writes = None
        pool = SlabPool.sized(SCHEMA, self._window_bytes, MAX_BATCH_ROWS, self._memory)
        window = SurvivingWindow(SCHEMA, pool, self)
        if self._journal:
            window.replay([msgpack.unpackb(each) for each in self._journal])
        return window

    def write(self, operation: Operation, state: Callable[[], Operation]) -> None:
        dies = False
        if self.dies_after_writes is not None:
            self.dies_after_writes -= 1
            dies = self.dies_after_writes <= 0
        if dies and self._random.random() < 0.5:
            raise Killed
        if len(self._journal) > 20 and self._random.random() < 0.1:
            self._journal = [msgpack.packb(state())]
        self._journal.append(msgpack.packb(operation))
        if dies:
            raise Killed

    def _memory(self, number: int, size_bytes: int) -> NDArray[np.uint8]:
        return self._slabs.setdefault(number, np.zeros(size_bytes, np.uint8))
