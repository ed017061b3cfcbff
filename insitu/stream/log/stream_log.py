"""The stream log: records appended by one thread, made durable by another, read by any.

Unlike the design page: `File.read` is `read_into(offset, target)`, `File.truncate` is
`clear_from(offset)`, `Disk` has `rename` (a prepared segment gets its name when it is begun);
`append` takes `payload` as an iterable with a default, `recover` takes `after_chain` and
`cut_damage` by name, `release` takes `now_ns`; times are whole nanoseconds. `recover` does not
sync: the first `sync` afterwards covers what was found. Sync the log before a checkpoint that
names one of its records is written, or a loss of power can leave a checkpoint without its log.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from insitu.errors import InternalError
from insitu.schema import Schema
from insitu.stream.log.disk import Disk, File
from insitu.stream.log.errors import LogFailed, write_error
from insitu.stream.log.reader import LogReader
from insitu.stream.log.record import Kind, Record, encode, linked, payload_bytes
from insitu.stream.log.recovery import Recovery, Scan
from insitu.stream.log.segment import (
    PREPARED_NAME,
    UNSYNCED_NAME,
    Segment,
    SegmentHeader,
    segment_name,
)
from insitu.stream.log.tail import cut, opened
from insitu.stream.stamp import Stamp

_NS = 1_000_000_000


class StreamLog:
    """An append-only log of one stream, in preallocated segments.

    `recover` comes first, once. Then `append`, `prepare` and `release` belong to one thread;
    `sync`, the numbers and readers may be used from others.

    Args:
        disk: its directory, of which it is the only writer.
        segment_bytes: of a file; a record that is larger gets one of its own.
        keep_bytes: so much of the newest stays, also when no checkpoint needs it.
        keep_seconds: a segment stays for so long after its last record, as well.
        clock: wall clock in ns, for the times in the log.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from insitu.stream.log.disk import FileSystemDisk
        >>> disk = FileSystemDisk(Path(tempfile.mkdtemp()))
        >>> log = StreamLog(disk, Schema.of({"x": ("float32", (4,))}), segment_bytes=1 << 16)
        >>> log.recover(0, print).appended
        0
        >>> rows = np.ones((2, 16), np.uint8)
        >>> log.append(Kind.BATCH, Stamp("camera", 1, 1, None, 0), 2, payload=[rows])
        1
        >>> log.synced, log.sync()
        (0, 1)
        >>> record = log.reader(0).next()
        >>> record.kind.name, record.stamp.producer_id, record.rows, len(record.payload)
        ('BATCH', 'camera', 2, 32)
        >>> log.close()
        >>> disk.close()
    """

    def __init__(
        self,
        disk: Disk,
        schema: Schema,
        *,
        segment_bytes: int = 1 << 26,
        keep_bytes: int = 0,
        keep_seconds: float = 0.0,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._disk = disk
        self._schema = schema
        self._segment_bytes = segment_bytes
        self._keep_bytes = keep_bytes
        self._keep_seconds = keep_seconds
        self._clock = clock
        self._appended = self._synced = self._chain = 0
        self._segments: list[Segment] = []  # the last one is being written
        self._file: File | None = None  # of the last one
        self._tail_bytes = 0  # where its next record goes
        self._seed = 0  # of its records' headers
        self._is_soiled = False  # a failed write may have left something there
        self._prepared: tuple[File, int] | None = None
        self._sealed: list[File] = []  # earlier ones that are not synced yet
        self._found: list[str] = []  # the same, of an earlier life: by name, they may be many
        self._names_changed = False
        self._broken = ""
        self._recovered = False
        self._lock = threading.Lock()  # of what `sync` reads; held for no system call
        self._sync_lock = threading.Lock()  # one sync at a time

    # ---- numbers --------------------------------------------------------------------------

    @property
    def appended(self) -> int:
        """The newest record; 0 when there never was one."""
        return self._appended

    @property
    def synced(self) -> int:
        """The newest record that is known to survive a loss of power, with all before it."""
        return self._synced

    @property
    def chain(self) -> int:
        """The chain after `appended`. For the thread that appends."""
        return self._chain

    @property
    def first(self) -> int:
        """The oldest record that is kept; `appended` + 1 when there is none."""
        with self._lock:
            return self._segments[0].first_record if self._segments else self._appended + 1

    @property
    def size_bytes(self) -> int:
        """What all segments take on the disk, reserved room included."""
        with self._lock:
            return sum(segment.size_bytes for segment in self._segments)

    @property
    def segments(self) -> int:
        """How many files hold records."""
        with self._lock:
            return len(self._segments)

    @property
    def broken(self) -> str:
        """Why nothing can be appended any more until a restart; empty while all is well."""
        return self._broken

    # ---- beginning and end ----------------------------------------------------------------

    def recover(
        self,
        after_record: int,
        on_record: Callable[[Record], None],
        *,
        after_chain: int | None = None,
        cut_damage: bool = False,
    ) -> Recovery:
        """Find the end of the log and cut off what is torn.

        Args:
            after_record: the record that the checkpoint names, 0 without one.
            on_record: gets every record behind it, in order; must not keep its payload.
            after_chain: the chain that the checkpoint names. An empty log goes on from there.
            cut_damage: also remove what is damaged, and all behind it, though it was durable.

        Raises:
            LogMismatch: the log does not reach from the checkpoint on, is not the one that the
                checkpoint knows, or is of another schema or version.
            LogDamaged: what was durable is not there any more.
            LogFailed: the disk cannot read, or not cut.
        """
        assert not self._recovered, "a log is recovered once"
        scan = Scan(self._disk, self._schema, after_record, after_chain)
        try:
            recovery = scan.run(on_record, cut_damage=cut_damage)
        except OSError as error:
            scan.close()
            raise write_error("the log cannot be recovered", error) from error
        except BaseException:
            scan.close()
            raise
        self._appended, self._chain = recovery.appended, recovery.chain
        self._synced = min(scan.synced, recovery.appended)
        self._segments = scan.segments
        self._tail_bytes, self._seed = scan.tail_bytes, scan.seed
        self._file, self._found = scan.file, scan.unsynced
        self._names_changed = self._recovered = True
        return recovery

    def close(self) -> None:
        """Let go of all files. What was not synced may be lost with the power."""
        with self._sync_lock, self._lock:
            prepared = [] if self._prepared is None else [self._prepared[0]]
            for file in (*self._sealed, *prepared, self._file):
                if file is not None:
                    file.close()
            self._sealed, self._file, self._prepared = [], None, None
            self._broken = self._broken or "it is closed"

    # ---- writing --------------------------------------------------------------------------

    def append(
        self,
        kind: Kind,
        stamp: Stamp | None,
        rows: int,
        *,
        keep: npt.NDArray[np.bool_] | None = None,
        payload: Sequence[Any] = (),
    ) -> int:
        """Write one record behind the last, and return its number.

        Args:
            stamp: None for END and REOPEN; of a LEAVE only the producer's id counts.
            rows: that it is about.
            keep: (rows,) which of them passed the door; None for all.
            payload: contiguous buffers that hold the rows, one behind the other. They go to the
                page cache and nowhere else.

        Raises:
            LogFull: there is no room. Nothing was appended; the same may be tried again.
            LogFailed: the disk refuses; the same holds, unless the log is `broken`.
            ProducerError: times, ids or flags are not one number for each row.
        """
        assert self._recovered, "recover comes first"
        self._check_usable()
        now_ns = self._clock()
        number = self._appended + 1
        record = encode(kind, stamp, rows, number=number, keep=keep, payload=payload)
        expected = payload_bytes(kind, rows, self._schema.row_bytes)
        if record.payload_bytes != expected:
            raise InternalError(
                f"a {kind.name} record of {rows} rows with {record.payload_bytes} bytes",
                allowed=f"{expected} bytes",
            )
        try:
            file = self._file_with_room(record.size_bytes, now_ns)
            buffers = record.buffers(
                chain=self._chain, synced=self._synced, appended_at_ns=now_ns, seed=self._seed
            )
            self._write(file, buffers)
        except OSError as error:
            raise write_error(f"record {number:,} cannot be logged", error) from error
        self._tail_bytes += record.size_bytes
        self._chain = linked(self._chain, record.digest)
        self._appended = number  # last: others may read the record from now on
        return number

    def prepare(self) -> None:
        """Reserve the next segment when half of the present one is used. For idle turns.

        After an append that failed it tells whether the disk can be written to again.

        Raises:
            LogFull, LogFailed: it cannot be reserved; what is reserved already can be filled.
        """
        self._check_usable()
        try:
            self._clean()
        except OSError as error:
            raise write_error("the log cannot be written", error) from error
        if self._prepared is not None:
            return
        if self._segments and self._tail_bytes * 2 < self._segments[-1].size_bytes:
            return
        try:
            self._prepare(self._segment_bytes)
        except OSError as error:
            raise write_error("the next segment of the log cannot be reserved", error) from error

    def release(self, upto_record: int, now_ns: int) -> int:
        """Remove segments that nobody needs, oldest first, and return how many.

        Args:
            upto_record: records up to this one are in every checkpoint that is kept.
            now_ns: wall clock, for `keep_seconds`.

        Raises:
            LogFailed: the disk refuses; the rest stays.
        """
        released = 0
        while (segment := self._oldest_unneeded(upto_record, now_ns)) is not None:
            try:
                self._disk.remove(segment.name)
                self._disk.sync_names()  # in order: a gap would cut the log's beginning off
            except OSError as error:
                raise write_error(f"{segment.name} cannot be removed", error) from error
            with self._lock:
                self._segments.remove(segment)
            released += 1
        return released

    def sync(self) -> int:
        """Make everything that was appended before this call durable, and return its number.

        Raises:
            LogFailed: the disk could not. What it did not write it may have forgotten, and a
                second try would not tell: the log is `broken`, and only a restart finds out.
        """
        with self._sync_lock:
            self._check_usable()
            with self._lock:
                target = self._appended
                sealed, active = list(self._sealed), self._file
                names, self._names_changed = self._names_changed, False
            if target > self._synced or names:
                self._sync([*sealed, active] if active is not None else sealed, names=names)
                self._found.clear()
            with self._lock:
                self._synced = max(self._synced, target)
            self._drop_sealed(sealed)
            return self._synced

    # ---- reading --------------------------------------------------------------------------

    def reader(self, after_record: int) -> LogReader:
        """Reads on from a record, also while more is appended."""
        return LogReader(self._disk, self, after_record)

    def segment_with(self, record: int) -> Segment | None:
        """The segment that holds a record, or will; None when it is no longer kept."""
        with self._lock:
            holding = [each for each in self._segments if each.first_record <= record]
            return holding[-1] if holding else None

    # ---- inside ---------------------------------------------------------------------------

    def _check_usable(self) -> None:
        if self._broken:
            raise self._unusable()

    def _unusable(self) -> LogFailed:
        return LogFailed(
            f"the log takes nothing more: {self._broken}",
            consequence="nothing more is accepted",
            remedy="see to the disk, then restart the service",
        )

    def _write(self, file: File, buffers: Sequence[Any]) -> None:
        try:
            file.write(self._tail_bytes, buffers)
        except BaseException:
            self._is_soiled = True
            raise

    def _clean(self) -> None:
        """Clear away what a failed write may have left behind the last record."""
        if self._file is not None and self._is_soiled:
            cut(self._file, self._tail_bytes)
            self._sync([self._file], names=False)
            self._segments[-1].size_bytes = self._file.size_bytes
        self._is_soiled = False

    def _file_with_room(self, size_bytes: int, now_ns: int) -> File:
        self._clean()
        if self._file is None or self._tail_bytes + size_bytes > self._segments[-1].size_bytes:
            return self._roll(size_bytes, now_ns)
        return self._file

    def _roll(self, size_bytes: int, now_ns: int) -> File:
        """Begin the next segment. At most one before it is left unsynced."""
        first = self._appended + 1
        header = SegmentHeader(self._schema, first, self._chain, self._synced, now_ns)
        begin = header.size_bytes
        self._sync_sealed()
        file, room_bytes = self._prepare(max(self._segment_bytes, begin + size_bytes))
        file.write(0, [header.encode()])
        self._disk.rename(PREPARED_NAME, segment_name(first))
        with self._lock:
            if self._file is not None:
                self._sealed.append(self._file)
            if self._segments and self._segments[-1].first_record == first:
                self._segments.pop()  # without a record, and too small for this one
            self._segments.append(Segment(first, room_bytes, now_ns))
            self._file, self._prepared, self._names_changed = file, None, True
        self._tail_bytes, self._seed = begin, header.seed
        return file

    def _prepare(self, size_bytes: int) -> tuple[File, int]:
        if self._prepared is not None and self._prepared[1] < size_bytes:
            self._disk.remove(PREPARED_NAME)
            self._prepared[0].close()
            self._prepared = None
        if self._prepared is None:
            self._prepared = self._disk.create(PREPARED_NAME, size_bytes), size_bytes
        return self._prepared

    def _sync_sealed(self) -> None:
        if self._sealed:  # looked at without the lock: only this thread makes it longer
            with self._sync_lock:
                self._check_usable()
                sealed = list(self._sealed)
                self._sync(sealed, names=False)
                self._drop_sealed(sealed)

    def _sync(self, files: Sequence[File], *, names: bool) -> None:
        try:
            for file in files:
                file.sync()
            if names:
                self._sync_found()
                self._disk.sync_names()
        except OSError as error:
            self._broken = f"it could not be synced ({error.strerror or error})"
            with suppress(OSError):  # for the next start, which may still find it in the cache
                self._disk.create(UNSYNCED_NAME, 0).close()
            raise self._unusable() from error

    def _sync_found(self) -> None:
        for name in self._found:
            with suppress(FileNotFoundError), opened(self._disk, name) as file:
                file.sync()

    def _drop_sealed(self, files: Sequence[File]) -> None:
        with self._lock:
            self._sealed = [file for file in self._sealed if file not in files]
        for file in files:
            file.close()

    def _oldest_unneeded(self, upto_record: int, now_ns: int) -> Segment | None:
        with self._lock:
            if len(self._segments) < 2:
                return None
            oldest, following = self._segments[:2]
            left_bytes = sum(segment.size_bytes for segment in self._segments[1:])
        age_seconds = (now_ns - following.created_at_ns) / _NS
        needed = following.first_record - 1 > upto_record
        by_age = self._keep_seconds > 0 and age_seconds < self._keep_seconds
        return None if needed or by_age or left_bytes < self._keep_bytes else oldest
