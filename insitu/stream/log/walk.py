"""Reading all of a log, whatever state it is in, and changing nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from insitu.errors import OperatorError
from insitu.schema import Schema
from insitu.stream.log.disk import Disk, File
from insitu.stream.log.promises import promised_behind, promised_by
from insitu.stream.log.record import Record
from insitu.stream.log.segment import (
    SegmentHeader,
    check_header,
    first_record_of,
    read_segment_header,
    segment_name,
)
from insitu.stream.log.segment_reader import SegmentReader, written_bytes
from insitu.stream.log.tail import opened


@dataclass
class SegmentSummary:
    """What a segment holds: `last_record` is before `first_record` where it holds nothing."""

    name: str
    first_record: int
    last_record: int
    used_bytes: int
    size_bytes: int
    created_at_ns: int


class LogWalk:
    """One walk through a log, from its oldest record on.

    Args:
        disk: may be in use by a service: what is being written then looks like a torn tail.

    Attributes:
        schema: of the stream.
        segments: those that were entered so far.
        number, chain: of the last record that was good.
        flaws: what is damaged, in words.
        torn_bytes, torn_reason: what is behind the last record and no record; the next start of
            the service cuts it off.

    Raises:
        LogMismatch: the log has another format version, or segments of several schemas.
        OperatorError: there is no log, or the service released a part that was being read.
    """

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        firsts = (first_record_of(name) for name in disk.names())
        self._firsts = sorted(first for first in firsts if first is not None)
        self.schema = self._find_schema()
        self.segments: list[SegmentSummary] = []
        self.number = self.chain = 0
        self.flaws: list[str] = []
        self.torn_bytes = 0
        self.torn_reason = ""
        self._follows = False  # whether `number` and `chain` are those before the next record

    @property
    def first_record(self) -> int:
        """The oldest one, by the name of its segment."""
        return self._firsts[0]

    def records(self, *, from_record: int = 0, whole: bool = True) -> Iterator[Record]:
        """All good records from one on, each valid until the next.

        Args:
            from_record: segments that end before it are left out.
            whole: verify each to the last bit; False leaves payloads unread.
        """
        skipped = [first for first in self._firsts if first <= from_record][:-1]
        for place, first in enumerate(self._firsts):
            if first in skipped:
                continue
            with self._opened(first) as file:
                yield from self._segment(file, first, self._firsts[place + 1 :], whole)
                file.drop_cache()  # into its pages the next one is read
            if self.torn_reason:
                return

    def _segment(self, file: File, first: int, later: list[int], whole: bool) -> Iterator[Record]:
        header = read_segment_header(file)
        if not isinstance(header, str) and header.first_record < first:
            header = "it begins as it did in an earlier use"
        if isinstance(header, str):
            self._note(f"{segment_name(first)}: {header}", first, None, file, later)
            self._follows = False
            return
        self._check_header(header, first)
        self._follows = True
        self.number, self.chain = header.first_record - 1, header.chain_before
        reader = SegmentReader(file, header)
        summary = SegmentSummary(
            segment_name(first), first, first - 1, 0, file.size_bytes, header.created_at_ns
        )
        self.segments.append(summary)
        while self._follows:
            while (record := reader.next() if whole else reader.glance()) is not None:
                self.number, self.chain = record.number, record.chain
                summary.last_record, summary.used_bytes = record.number, reader.offset_bytes
                yield record
            if not self._is_damaged(reader, file, later):
                return
            damaged = reader.peek()
            if damaged is None:
                self._follows = False  # and nobody knows where the next record begins
            else:
                reader.skip(damaged)
                self.number, self.chain = reader.number, reader.chain

    def _is_damaged(self, reader: SegmentReader, file: File, later: list[int]) -> bool:
        """Whether there is no further record here because of damage, which is written down."""
        number = reader.number + 1
        if segment_name(reader.first_record) not in self._disk.names():
            raise _released(reader.first_record)  # and is being written anew
        behind = reader.written_behind()
        if later and later[0] == number:
            if behind:
                self.flaws.append(f"behind record {number - 1:,} stands what nobody wrote")
            return False
        if not later and not behind:
            return False
        what = reader.flaw or f"record {number:,} is not there"
        return self._note(what, number, reader, file, later)

    def _note(
        self, what: str, number: int, reader: SegmentReader | None, file: File, later: list[int]
    ) -> bool:
        """Write down what is wrong at a record; True when it is damage, False for a tear."""
        promised = promised_by(self._disk, self.schema, later if reader else [number, *later])
        if reader is not None:
            promised = max(promised, promised_behind(reader))
        if promised >= number:
            self.flaws.append(what)
            return True
        self.torn_reason = what
        self.torn_bytes = reader.written_behind() if reader else written_bytes(file, number)
        for first in later:
            with opened(self._disk, segment_name(first)) as behind:
                self.torn_bytes += written_bytes(behind, first)
        return False

    def _check_header(self, header: SegmentHeader, first: int) -> None:
        name = segment_name(first)
        check_header(header, self.schema, name)
        if header.first_record != first:
            self.flaws.append(f"{name} says that it begins at record {header.first_record:,}")
        elif self._follows and first != self.number + 1:
            self.flaws.append(f"records {self.number + 1:,} to {first - 1:,} are not there")
        elif self._follows and header.chain_before != self.chain:
            self.flaws.append(f"{name} does not continue the chain")

    @contextmanager
    def _opened(self, first: int) -> Iterator[File]:
        try:
            file = self._disk.open(segment_name(first))
        except FileNotFoundError:
            raise _released(first) from None
        try:
            yield file
        finally:
            file.close()

    def _find_schema(self) -> Schema:
        for first in self._firsts:
            with self._opened(first) as file:
                header = read_segment_header(file)
            if not isinstance(header, str):
                check_header(header, header.schema, segment_name(first))
                return header.schema
        raise OperatorError(
            "there is no readable segment of a log",
            allowed="the directory that log.directory names",
        )


def _released(first: int) -> OperatorError:
    return OperatorError(
        f"{segment_name(first)} was released by the service while the log was read",
        consequence="what was found so far is not the whole log",
        remedy="start again, or stop the service meanwhile",
    )
