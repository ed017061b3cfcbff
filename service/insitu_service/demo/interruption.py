"""Ctrl-C and SIGTERM end the demo in order, whatever it is doing."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self


class Interruption:
    """While entered, SIGINT and SIGTERM raise KeyboardInterrupt, but not where it is held back.

    A process that is being started belongs to nobody until its start returns: an exception in
    between would leave it behind. So starts and ends of processes are `held`.

    Example:
        >>> with Interruption() as interruption:
        ...     try:
        ...         with interruption.held():
        ...             signal.raise_signal(signal.SIGTERM)
        ...             print("done all the same")
        ...     except KeyboardInterrupt:
        ...         print("interrupted")
        done all the same
        interrupted
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self._holders = 0
        self._came = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in self._SIGNALS:
            self._before[number] = signal.signal(number, self._caught)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """What is inside runs to its end; an interruption that came meanwhile is raised then."""
        self._holders += 1
        try:
            yield
        finally:
            self._holders -= 1
        if self._came and not self._holders:
            self._came = False
            raise KeyboardInterrupt

    def _caught(self, number: int, frame: FrameType | None) -> None:
        if self._holders:
            self._came = True
        else:
            raise KeyboardInterrupt
