"""Starting from what is on the disk: find where the log ends, and cut off what is torn.

The scan begins in the segment that holds the record asked for. Records up to it are passed over
by their headers, the ones behind it are read and verified. The first that is not right ends the
log: a process that was killed leaves half a record, a loss of power any part of what was not
synced. What follows is cut off, unless something that is there says that it was safe already:
every record and every segment tells how much was known to be synced when it was written. Then
this is no tear, the disk lost what it had promised, and nobody but the operator may decide.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from insitu.schema import Schema
from insitu.stream.log.disk import LOCK_NAME, Disk, File
from insitu.stream.log.errors import LogDamaged, LogMismatch
from insitu.stream.log.promises import promised_behind, promised_by
from insitu.stream.log.record import Record
from insitu.stream.log.segment import (
    PREPARED_NAME,
    Segment,
    SegmentHeader,
    check_header,
    first_record_of,
    read_segment_header,
    segment_name,
)
from insitu.stream.log.segment_reader import SegmentReader, written_bytes
from insitu.stream.log.tail import cut, opened


@dataclass(frozen=True)
class Recovery:
    """What was found.

    Args:
        first: the oldest record that is kept; one more than `appended` in an empty log.
        appended: the newest good record.
        chain: after it.
        records: verified and handed on, those behind the record that was asked for.
        torn_bytes: cut off at the end, without what was never written; 0 after a clean stop.
        torn_reason: what was wrong there.
        removed: files that were removed with them.
        foreign: files that the log does not know and leaves alone.
    """

    first: int
    appended: int
    chain: int
    records: int
    torn_bytes: int = 0
    torn_reason: str = ""
    removed: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()


class Scan:
    """One recovery: `run`, then what it found is in the attributes.

    Args:
        after_record: the newest record that need not be read.
        after_chain: the chain after it, where it is known.

    Attributes:
        segments: all that stay, oldest first.
        file: the last of them, open; the caller closes it.
        unsynced: names of the others that may not be safe.
        tail_bytes, seed: where the next record goes in the last of them, and that one's seed.
        synced: the newest record known to be durable.
    """

    def __init__(
        self, disk: Disk, schema: Schema, after_record: int, after_chain: int | None
    ) -> None:
        self.segments: list[Segment] = []
        self.file: File | None = None
        self.unsynced: list[str] = []
        self.tail_bytes = self.seed = 0
        self.synced = 0
        self._disk = disk
        self._schema = schema
        self._after_record = after_record
        self._after_chain = after_chain
        self._reader: SegmentReader | None = None
        self._records = 0
        self._reason = ""

    def run(self, on_record: Callable[[Record], None], *, cut_damage: bool) -> Recovery:
        """Scan, cut, and tell; see `insitu.stream.log.stream_log.StreamLog.recover`."""
        names = self._disk.names()
        firsts = sorted(first for first in map(first_record_of, names) if first is not None)
        good = self._start(firsts)
        if good:  # it may be complete and still not be safe
            self.unsynced.append(segment_name(firsts[good - 1]))
        for first in firsts[good:]:
            self._reason = self._enter(first) or ""
            if self._reason:
                break
            good += 1
            self._read(on_record)
        later = firsts[good:]
        appended, chain = self._end(later)
        torn_bytes = self._torn_bytes(later)
        if (torn_bytes or later) and not cut_damage:
            self._check_not_damaged(appended, later)
        self.segments = [self._described(first) for first in firsts[:good]]
        if torn_bytes:
            self._cut()
        self._remove(later, PREPARED_NAME in names)
        known = {*map(segment_name, firsts), PREPARED_NAME, LOCK_NAME}
        return Recovery(
            first=firsts[0] if good else appended + 1,
            appended=appended,
            chain=chain,
            records=self._records,
            torn_bytes=torn_bytes,
            torn_reason=(self._reason or "zeros where a record should be") if torn_bytes else "",
            removed=tuple(map(segment_name, later)),
            foreign=tuple(sorted(set(names) - known)),
        )

    def close(self) -> None:
        """Let go of the file."""
        if self.file is not None:
            self.file.close()
        self.file = None

    # ---- scanning -------------------------------------------------------------------------

    def _start(self, firsts: list[int]) -> int:
        """Index of the segment to begin with."""
        holding = [index for index, first in enumerate(firsts) if first <= self._after_record]
        return holding[-1] if holding else 0

    def _enter(self, first: int) -> str:
        """Go on with this segment, or say why it does not continue the log."""
        before = self._reader
        wanted = self._after_record + 1 if before is None else before.number + 1
        if first > wanted:
            return (before.flaw if before is not None else "") or f"record {wanted:,} is not there"
        file = self._open(first)
        header = read_segment_header(file)
        flaw = header if isinstance(header, str) else self._misfit(header, first)
        if isinstance(header, str) or flaw:
            file.close()
            return (before.flaw if before is not None else "") or f"{segment_name(first)}: {flaw}"
        if before is not None:
            self.unsynced.append(segment_name(before.first_record))
        if self.file is not None:
            self.file.drop_cache()  # into its pages the next one is read
        self.close()
        self.file = file
        self.synced = max(self.synced, header.synced)
        self._reader = SegmentReader(file, header)
        return ""

    def _open(self, first: int) -> File:
        """A segment as the device has it: a failed sync may have left what only seems to be there.

        Leaving one segment, its memory serves to read the next.
        """
        file = self._disk.open(segment_name(first))
        file.drop_cache()
        return file

    def _misfit(self, header: SegmentHeader, first: int) -> str:
        check_header(header, self._schema, segment_name(first))
        if header.first_record < first:
            return "it begins as it did in an earlier use"
        if header.first_record > first:
            raise LogDamaged(
                f"{segment_name(first)} says that it begins at record {header.first_record:,}",
                consequence="the service does not start: no crash renames a segment",
                remedy="restore the log's directory",
            )
        if self._reader is not None and self._reader.chain != header.chain_before:
            return "it does not continue the chain"
        return ""

    def _read(self, on_record: Callable[[Record], None]) -> None:
        """To the end of the present segment; leaves the reader's flaw."""
        reader = self._reader
        assert reader is not None
        while reader.number < self._after_record:
            header = reader.peek()
            if header is None:
                return
            reader.skip(header)
            self.synced = max(self.synced, header.synced)
        if reader.number == self._after_record:
            self._check_chain(reader.chain)
        while (record := reader.next()) is not None:
            self._records += 1
            on_record(record)
            if record.header.synced > self.synced:
                self.synced = record.header.synced

    def _end(self, later: list[int]) -> tuple[int, int]:
        """Number and chain of the last good record, if the log fits to what was asked for."""
        after, reader = self._after_record, self._reader
        self._reason = self._reason or (reader.flaw if reader is not None else "")
        if reader is None and not (later and later[0] <= after):
            self._check_not_released(later)
            if self._after_chain is None and after > 0:
                raise LogMismatch(
                    f"the log is empty, wanted is what follows record {after:,}",
                    remedy="put the log back that belongs to the checkpoint",
                )
            return after, self._after_chain or 0
        if reader is None or reader.number < after:
            ends = "unreadable" if reader is None else f"good up to record {reader.number:,}"
            raise LogMismatch(
                f"the log is {ends}, the checkpoint holds all up to {after:,}: "
                f"{self._reason or 'it ends there'}",
                consequence="the numbers of new records would be wrong",
                remedy="put the log back that belongs to the checkpoint, or move it away: "
                "an empty one goes on where the checkpoint ends",
            )
        self.tail_bytes, self.seed = reader.offset_bytes, reader.seed
        return reader.number, reader.chain

    def _check_not_released(self, later: list[int]) -> None:
        """The names of the first segments may be lost with the power, but only before a sync."""
        missing = later and later[0] > self._after_record + 1
        if missing and promised_by(self._disk, self._schema, later) > self._after_record:
            raise LogMismatch(
                f"the log begins at record {later[0]:,}, wanted is what follows "
                f"record {self._after_record:,}",
                consequence="records that were never trained are no longer there",
                remedy="resume from a newer checkpoint, or keep more of the log",
            )

    def _check_chain(self, chain: int) -> None:
        if self._after_chain not in (None, chain):
            raise LogMismatch(
                f"after record {self._after_record:,} the chain of the log is {chain:#018x}, "
                f"that of the checkpoint {self._after_chain:#018x}",
                consequence="they hold other records, so nothing is resumed",
                remedy="put the log back that belongs to the checkpoint",
            )

    # ---- damage or tear -------------------------------------------------------------------

    def _check_not_damaged(self, appended: int, later: list[int]) -> None:
        behind = 0 if self._reader is None else promised_behind(self._reader)
        promised = max(self.synced, behind, promised_by(self._disk, self._schema, later))
        if promised > appended:
            raise LogDamaged(
                f"record {appended + 1:,} of the log is damaged: {self._reason}; "
                f"all up to {promised:,} were safely on the disk",
                consequence="the service does not start: its producers have let go of them",
                remedy="restore the log's directory, or give up everything from the damage on "
                "with `insitu log cut`",
            )

    # ---- afterwards -----------------------------------------------------------------------

    def _described(self, first: int) -> Segment:
        header = self._header(first)
        created_at_ns = 0 if isinstance(header, str) else header.created_at_ns
        with opened(self._disk, segment_name(first)) as file:
            return Segment(first, file.size_bytes, created_at_ns)

    def _header(self, first: int) -> SegmentHeader | str:
        with opened(self._disk, segment_name(first)) as file:
            return read_segment_header(file)

    def _torn_bytes(self, later: list[int]) -> int:
        """What was written behind the last good record."""
        total = 0
        if self.file is not None:
            assert self._reader is not None
            total = self._reader.written_behind()
        for first in later:
            with opened(self._disk, segment_name(first)) as file:
                total += written_bytes(file, first)
        return total

    def _cut(self) -> None:
        if self.file is not None:
            cut(self.file, self.tail_bytes)
            self.file.sync()

    def _remove(self, later: list[int], prepared: bool) -> None:
        """Remove segments behind the end, the newest first, and the one that is not begun."""
        for first in reversed(later):
            self._disk.remove(segment_name(first))
        if prepared:
            self._disk.remove(PREPARED_NAME)
        if later or prepared:
            self._disk.sync_names()
