"""How training goes, for a person who waits: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TextIO

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from insitu_service.status import figures, number

Status = Mapping[str, Any]
TERMINAL_SECONDS = 1.0
PLAIN_SECONDS = 10.0
_BAR_WIDTH = 32


class Progress(Protocol):
    """Shows the state until it is closed."""

    def close(self) -> None: ...


def show_progress(
    status: Callable[[], Status], *, stream: TextIO | None = None, interval_seconds: float = 0.0
) -> Progress:
    """Show the state over and over, from a thread of its own.

    Args:
        status: makes the state (see `insitu_service.status`).
        stream: where; stdout when None.
        interval_seconds: between two; 0 for 1 s on a terminal and 10 s elsewhere.
    """
    stream = sys.stdout if stream is None else stream
    if stream.isatty():
        return LiveTable(status, stream, interval_seconds or TERMINAL_SECONDS)
    return PlainLines(status, stream, interval_seconds or PLAIN_SECONDS)


class LiveTable:
    """A table that is drawn over itself. Log lines of the same terminal go above it."""

    def __init__(
        self, status: Callable[[], Status], stream: TextIO, interval_seconds: float
    ) -> None:
        self._live = Live(
            console=Console(file=stream),
            get_renderable=lambda: table(status()),
            refresh_per_second=1 / interval_seconds,
            redirect_stdout=False,
            redirect_stderr=sys.stderr.isatty(),
        )
        self._live.start()

    def close(self) -> None:
        """Draw it a last time and leave it there."""
        self._live.stop()


class PlainLines:
    """One line an interval, and a last one at the end."""

    def __init__(
        self, status: Callable[[], Status], stream: TextIO, interval_seconds: float
    ) -> None:
        self._status = status
        self._stream = stream
        self._interval = interval_seconds
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="insitu-progress", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._closed.wait(self._interval):
            self._print()

    def _print(self) -> None:
        try:
            print(line(self._status()), file=self._stream, flush=True)
        except (OSError, ValueError):  # nobody reads any more; training goes on
            self._closed.set()

    def close(self) -> None:
        """Print the last line and end."""
        if not self._closed.is_set():
            self._closed.set()
            self._thread.join()
            self._print()


def line(status: Status) -> str:
    """The state in one line, without colours.

    Example:
        >>> line({"service": {"state": "running"}, "trainer": {"step": 3, "loss": 0.5}})
        'running | step 3 | loss 0.5'
    """
    trainer, buffer, memory = (status.get(key) or {} for key in ("trainer", "buffer", "memory"))
    parts = [str(status.get("service", {}).get("state", "starting"))]
    if "step" in trainer:
        parts += [f"step {number(trainer['step'])}", f"loss {number(trainer.get('loss'))}"]
    if "samples_per_second" in trainer:
        parts.append(f"{number(trainer['samples_per_second'])} samples/s")
    for name, fill, key in (("buffer", buffer, "pending_samples"), ("memory", memory, "samples")):
        if key in fill:
            parts.append(f"{name} {number(fill[key])} of {number(fill['capacity_samples'])}")
    if status.get("tasks"):
        parts.append(f"task {status['tasks'][-1]['name']}")
    dropped = (status.get("stream") or {}).get("dropped_samples", 0)
    return " | ".join([*parts, f"{number(dropped)} dropped"] if dropped else parts)


def table(status: Status) -> RenderableType:
    """The state as a table, with bars for the fill of buffer and memory."""
    grid = Table(box=None, show_header=False, pad_edge=False)
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, value in figures(status):
        grid.add_row(label, value)
        filled, capacity = _fill(label, status)
        if capacity:
            grid.add_row("", _bar(filled, capacity))
    return grid


def _bar(filled: int, capacity: int) -> ProgressBar:
    # plain colours, which a terminal of 8 colours has too
    return ProgressBar(
        capacity, min(filled, capacity), width=_BAR_WIDTH, style="bright_black",
        complete_style="green", finished_style="green",
    )  # fmt: skip


def _fill(label: str, status: Status) -> tuple[int, int]:
    part = status.get(label)
    if label == "buffer" and part:
        return part["capacity_samples"] - part["free_samples"], part["capacity_samples"]
    if label == "memory" and part:
        return part["samples"], part["capacity_samples"]
    return 0, 0
