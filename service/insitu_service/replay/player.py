"""The player: the records of a log enter a stream buffer, at full speed or as they once came."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator

from insitu.stream.buffer import StreamBuffer
from insitu.stream.inlet import ProbeSink
from insitu.stream.log.record import Kind, Record
from insitu.stream.playback import Playback

_log = logging.getLogger("insitu.replay")

#: let in at a time, and how long to wait where nobody tells of room (the inbox of the probes)
_FEED_BYTES = 16 << 20
_WAIT_SECONDS = 0.05


class Score:
    """The records one by one, each not before its time.

    Args:
        records: in order; valid until the next is asked for.
        speed: times the original pace; None: no waiting.
        stop: ends all waiting.
    """

    def __init__(
        self, records: Iterator[Record], speed: float | None, stop: threading.Event
    ) -> None:
        self.is_over = False
        self.is_ended = False  # the stream itself was over at the end
        self._records = records
        self._speed = speed
        self._stop = stop
        self._began: tuple[float, int] | None = None

    def next(self) -> Record | None:
        record = next(self._records, None)
        if record is None:
            self.is_over = True
            return None
        if record.kind in (Kind.END, Kind.REOPEN):
            self.is_ended = record.kind == Kind.END
        self._wait(record)
        return record

    def _wait(self, record: Record) -> None:
        if self._speed is None:
            return
        began = self._began = self._began or (time.monotonic(), record.appended_at_ns)
        due = began[0] + (record.appended_at_ns - began[1]) / 1e9 / self._speed
        self._stop.wait(max(0.0, due - time.monotonic()))


class Player:
    """Feeds a buffer from a score until its end; `run` is the work of a thread.

    Args:
        on_end: called by that thread afterwards; says whether the stream itself had ended.
    """

    def __init__(
        self,
        records: Iterator[Record],
        buffer: StreamBuffer,
        probes: ProbeSink,
        on_end: Callable[[bool], None],
        *,
        speed: float | None = None,
    ) -> None:
        self.failure: BaseException | None = None
        self.records = 0
        self._stop = threading.Event()
        self._score = Score(records, speed, self._stop)
        self._room = threading.Event()
        buffer.on_room = self._room.set
        self._playback = Playback(self._score, buffer, probes, self._entered)
        self._on_end = on_end

    def run(self) -> None:
        try:
            while not self._score.is_over and not self._stop.is_set():
                if not self._playback.feed(_FEED_BYTES):
                    self._room.wait(_WAIT_SECONDS)
                    self._room.clear()
        except Exception as error:
            self.failure = error
            _log.error("the log cannot be played on: %s", error)
        finally:
            self._on_end(self._score.is_ended)

    def stop(self) -> None:
        """End early."""
        self._stop.set()
        self._room.set()

    def _entered(self, _record: Record) -> None:
        self.records += 1
