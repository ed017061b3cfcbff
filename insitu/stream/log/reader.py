"""Reading a log while it is written."""

from __future__ import annotations

from contextlib import suppress
from typing import Protocol

from insitu.stream.log.disk import Disk, File
from insitu.stream.log.errors import LogDamaged, LogMismatch, write_error
from insitu.stream.log.record import Record
from insitu.stream.log.segment import Segment, read_segment_header
from insitu.stream.log.segment_reader import SegmentReader


class Growing(Protocol):
    """What a reader wants to know of the log."""

    @property
    def appended(self) -> int:
        """The newest record."""

    def segment_with(self, record: int) -> Segment | None:
        """The segment that holds a record, or will; None when it is no longer kept."""


class LogReader:
    """Gives the records behind a number, in order, as far as the log goes at that moment.

    Every record is verified again. For one thread, which need not be the one that appends.

    Args:
        number: of the record before the first one wanted.
    """

    def __init__(self, disk: Disk, log: Growing, number: int) -> None:
        self.number = number
        self._disk = disk
        self._log = log
        self._file: File | None = None
        self._reader: SegmentReader | None = None
        self._written = 0  # what was read ahead is good up to this record

    def next(self) -> Record | None:
        """The next record, or None at the end of the log. Its payload lasts until the next call.

        Raises:
            LogMismatch: the record is no longer kept.
            LogDamaged: it is not what was written.
            LogFailed: the disk cannot read.
        """
        if self.number >= self._log.appended:
            return None
        if self.number >= self._written:
            self._written = self._log.appended
            if self._reader is not None:
                self._reader.forget()
        try:
            record = self._reader.next() if self._reader is not None else None
            if record is None:
                record = self._enter().next()
        except OSError as error:
            raise write_error(f"record {self.number + 1:,} cannot be read", error) from error
        if record is None:
            raise self._damaged(self._reader.flaw if self._reader is not None else "")
        self.number = record.number
        return record

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            with suppress(OSError):
                self._file.drop_cache()  # into its pages the next one is read
            self._file.close()
        self._file = self._reader = None

    def _enter(self) -> SegmentReader:
        """Stand before the next record in the segment that holds it."""
        flaw = self._reader.flaw if self._reader is not None else ""
        segment = self._log.segment_with(self.number + 1)
        if segment is None:
            raise LogMismatch(
                f"record {self.number + 1:,} is no longer in the log",
                remedy="keep more of the log",
            )
        self.close()
        self._file = self._disk.open(segment.name)
        header = read_segment_header(self._file)
        if isinstance(header, str):
            raise self._damaged(header)
        self._reader = SegmentReader(self._file, header)
        while self._reader.number < self.number:
            passed = self._reader.peek()
            if passed is None:
                raise self._damaged(self._reader.flaw or flaw)
            self._reader.skip(passed)
        return self._reader

    def _damaged(self, flaw: str) -> LogDamaged:
        return LogDamaged(
            f"record {self.number + 1:,} of the log cannot be read: {flaw or 'it is not there'}",
            consequence="it is not trained",
            remedy="`insitu log verify` tells what is left",
        )
