"""The files of a log: those that are full, the one that is written, the one that is ready."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from insitu.schema import Schema
from insitu.stream.log.disk import Bytes, Disk, File
from insitu.stream.log.record import Draft
from insitu.stream.log.recovery import Scan
from insitu.stream.log.segment import PREPARED_NAME, Segment, SegmentHeader, segment_name
from insitu.stream.log.tail import cut
from insitu.stream.log.unsynced import Unsynced

_NS = 1_000_000_000


class Segments:
    """Writes records behind each other, over as many files as it takes.

    For the thread that appends, but for what only looks. Everything may raise OSError.

    Args:
        unsynced: told of every file that is begun.
        segment_bytes: of a file; a record that is larger gets one of its own.
        spare_segments, keep_bytes, keep_seconds: see `StreamLog`.
    """

    def __init__(
        self,
        disk: Disk,
        schema: Schema,
        unsynced: Unsynced,
        *,
        segment_bytes: int,
        spare_segments: int,
        keep_bytes: int,
        keep_seconds: float,
    ) -> None:
        self._disk = disk
        self._schema = schema
        self._unsynced = unsynced
        self._segment_bytes = segment_bytes
        self._spare_segments = spare_segments
        self._keep_bytes = keep_bytes
        self._keep_seconds = keep_seconds
        self._all: list[Segment] = []  # the last one is being written
        self._tail_bytes = 0  # where its next record goes
        self._seed = 0  # of its records' headers
        self._is_soiled = False  # a failed write may have left something there
        self._spare = 0  # of the oldest files, how many nobody needs
        self._prepared: _Prepared | None = None
        self._lock = threading.Lock()  # of the list, which others look at

    def found(self, scan: Scan) -> None:
        """Go on where recovery found the end."""
        self._all = scan.segments
        self._tail_bytes, self._seed = scan.tail_bytes, scan.seed
        self._unsynced.found(scan.file, scan.unsynced)

    def all(self) -> list[Segment]:
        """Oldest first."""
        with self._lock:
            return list(self._all)

    def write(self, draft: Draft, number: int, *, chain: int, synced: int, now_ns: int) -> None:
        """Put a record behind the last. When this fails, it is as if it never had been tried."""
        size_bytes = draft.size_bytes
        self._clean()
        if not self._all or self._tail_bytes + size_bytes > self._all[-1].size_bytes:
            self._begin(SegmentHeader(self._schema, number, chain, synced, now_ns), size_bytes)
        buffers = draft.buffers(chain=chain, synced=synced, appended_at_ns=now_ns, seed=self._seed)
        self._write(buffers)
        self._tail_bytes += size_bytes

    def prepare(self) -> None:
        """Reserve the next file when half of the present one is used; see to a failed write."""
        self._clean()
        if self._prepared is not None:
            return
        if not self._all or self._tail_bytes * 2 >= self._all[-1].size_bytes:
            self._prepare(self._segment_bytes)

    def remove_oldest(self, upto_record: int, now_ns: int) -> bool:
        """Remove the oldest file, for good, when there are more than enough that nobody needs."""
        self._spare = max(self._spare, self._count_unneeded(upto_record, now_ns))
        if self._spare <= self._spare_segments:
            return False
        self._remove_spare()
        return True

    def close(self) -> None:
        """Let go of the file that is ready; `unsynced` has the others."""
        if self._prepared is not None:
            self._prepared.file.close()
        self._prepared = None

    def _write(self, buffers: Sequence[Bytes]) -> None:
        assert self._unsynced.active is not None
        try:
            self._unsynced.active.write(self._tail_bytes, buffers)
        except BaseException:
            self._is_soiled = True
            raise

    def _clean(self) -> None:
        """Get rid of what a failed write left behind."""
        file = self._unsynced.active
        if file is None or not self._is_soiled:
            return
        cut(file, self._tail_bytes)
        self._unsynced.sync_active()
        self._all[-1].size_bytes = file.size_bytes
        self._is_soiled = False

    def _begin(self, header: SegmentHeader, size_bytes: int) -> None:
        """Begin the next file. At most one before it is left unsynced."""
        begin = header.size_bytes
        self._unsynced.sync_sealed()
        prepared = self._prepare(max(self._segment_bytes, begin + size_bytes))
        header = replace(header, is_reused=prepared.is_reused)
        prepared.file.write(0, [header.encode()])
        self._disk.rename(PREPARED_NAME, segment_name(header.first_record))
        with self._lock:
            if self._all and self._all[-1].first_record == header.first_record:
                self._all.pop()  # without a record, and too small for this one
            self._all.append(
                Segment(header.first_record, prepared.size_bytes, header.created_at_ns)
            )
        self._prepared = None
        self._unsynced.begin(prepared.file, self._all[-1].name)
        self._tail_bytes, self._seed = begin, header.seed

    def _prepare(self, size_bytes: int) -> _Prepared:
        if self._prepared is not None and self._prepared.size_bytes < size_bytes:
            self._disk.remove(PREPARED_NAME)
            self._prepared.file.close()
            self._prepared = None
        if self._prepared is None and self._spare:
            self._reuse_spare(size_bytes)
        if self._prepared is None:
            file = self._disk.create(PREPARED_NAME, size_bytes)
            self._prepared = _Prepared(file, size_bytes, is_reused=False)
        return self._prepared

    def _reuse_spare(self, size_bytes: int) -> None:
        """Make the oldest file, which nobody needs, the next one, if it has the right size."""
        oldest = self._all[0]
        if oldest.size_bytes != size_bytes:
            self._remove_spare()
            return
        file = self._disk.open(oldest.name)
        try:
            self._disk.rename(oldest.name, PREPARED_NAME)
        except BaseException:
            file.close()
            raise
        self._forget_spare()
        self._prepared = _Prepared(file, size_bytes, is_reused=True)
        self._unsynced.sync_names()  # else a loss of power could leave new records in an old file

    def _remove_spare(self) -> None:
        self._disk.remove(self._all[0].name)
        self._forget_spare()
        self._unsynced.sync_names()  # in order: a gap would cut the log's beginning off

    def _forget_spare(self) -> None:
        self._unsynced.forget(self._all[0].name)
        with self._lock:
            del self._all[0]
        self._spare -= 1

    def _count_unneeded(self, upto_record: int, now_ns: int) -> int:
        """Of the oldest files, how many nobody needs."""
        left_bytes = sum(segment.size_bytes for segment in self._all)
        count = 0
        for oldest, following in pairwise(self._all):
            left_bytes -= oldest.size_bytes
            age_seconds = (now_ns - following.created_at_ns) / _NS
            needed = following.first_record - 1 > upto_record
            by_age = self._keep_seconds > 0 and age_seconds < self._keep_seconds
            if needed or by_age or left_bytes < self._keep_bytes:
                break
            count += 1
        return count


@dataclass
class _Prepared:
    """The next file: reserved, not begun."""

    file: File
    size_bytes: int
    is_reused: bool
