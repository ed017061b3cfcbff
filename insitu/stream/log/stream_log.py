"""The stream log: records appended by one thread, made durable by another, read by any.

Unlike the design page: `File.read` is `read_into(offset, target)`, `File.truncate` is
`clear_from(offset)`, `Disk` has `rename` (a prepared segment gets its name when it is begun);
`append` takes `payload` as an iterable with a default, `recover` takes `after_chain` and
`cut_damage` by name, `release` takes `now_ns`; times are whole nanoseconds. `recover` does not
sync: the first `sync` afterwards covers what was found. Sync the log before a checkpoint that
names one of its records is written, or a loss of power can leave a checkpoint without its log.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from insitu.errors import InternalError
from insitu.schema import Schema
from insitu.stream.log.disk import Disk
from insitu.stream.log.errors import write_error
from insitu.stream.log.reader import LogReader
from insitu.stream.log.record import Kind, Record, encode, linked, payload_bytes
from insitu.stream.log.recovery import Recovery, Scan
from insitu.stream.log.segment import Segment
from insitu.stream.log.segments import Segments
from insitu.stream.log.unsynced import Unsynced
from insitu.stream.stamp import Stamp


class StreamLog:
    """An append-only log of one stream, in preallocated segments.

    `recover` comes first, once. Then `append`, `prepare` and `release` belong to one thread;
    `sync`, the numbers and readers may be used from others.

    Args:
        disk: its directory, of which it is the only writer.
        segment_bytes: of a file; a record that is larger gets one of its own.
        spare_segments: so many that nobody needs any more stay until they are written anew,
            which is several times cheaper than a new file.
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
        spare_segments: int = 0,
        keep_bytes: int = 0,
        keep_seconds: float = 0.0,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._disk = disk
        self._schema = schema
        self._clock = clock
        self._unsynced = Unsynced(disk, spare_segments)
        self._segments = Segments(
            disk,
            schema,
            self._unsynced,
            segment_bytes=segment_bytes,
            spare_segments=spare_segments,
            keep_bytes=keep_bytes,
            keep_seconds=keep_seconds,
        )
        self._appended = self._synced = self._chain = 0
        self._recovered = False

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
        kept = self._segments.all()
        return kept[0].first_record if kept else self._appended + 1

    @property
    def size_bytes(self) -> int:
        """What all segments take on the disk, reserved room included."""
        return sum(segment.size_bytes for segment in self._segments.all())

    @property
    def newest_segment_at_ns(self) -> int:
        """When the newest segment was begun, by the clock of the log; 0 without any."""
        return max((segment.created_at_ns for segment in self._segments.all()), default=0)

    @property
    def segments(self) -> int:
        """How many files hold records."""
        return len(self._segments.all())

    @property
    def wants_sync(self) -> bool:
        """A full segment is not synced: do it before the next is full, or appending waits."""
        return self._unsynced.has_sealed

    @property
    def broken(self) -> str:
        """Why nothing can be appended any more until a restart; empty while all is well."""
        return self._unsynced.broken

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
        self._segments.found(scan)
        self._recovered = True
        return recovery

    def close(self) -> None:
        """Let go of all files. What was not synced may be lost with the power."""
        self._unsynced.close()
        self._segments.close()

    # ---- writing --------------------------------------------------------------------------

    def append(
        self,
        kind: Kind,
        stamp: Stamp | None,
        rows: int,
        *,
        keep: npt.NDArray[np.bool_] | None = None,
        payload: Sequence[Any] = (),
        payload_xxh3: int | None = None,
    ) -> int:
        """Write one record behind the last, and return its number.

        Args:
            stamp: None for END and REOPEN; of a LEAVE only the producer's id counts.
            rows: that it is about.
            keep: (rows,) which of them passed the door; None for all.
            payload: contiguous buffers that hold the rows, one behind the other. They go to the
                page cache and nowhere else.
            payload_xxh3: of all of them together, where it is known, as from the wire.

        Raises:
            LogFull: there is no room. Nothing was appended; the same may be tried again.
            LogFailed: the disk refuses; the same holds, unless the log is `broken`.
            ProducerError: times, ids or flags are not one number for each row.
        """
        assert self._recovered, "recover comes first"
        self._unsynced.check_usable()
        number = self._appended + 1
        record = encode(
            kind, stamp, rows,
            number=number, keep=keep, payload=payload, payload_xxh3=payload_xxh3,
        )  # fmt: skip
        expected = payload_bytes(kind, rows, self._schema.row_bytes)
        if record.payload_bytes != expected:
            raise InternalError(
                f"a {kind.name} record of {rows} rows with {record.payload_bytes} bytes",
                allowed=f"{expected} bytes",
            )
        try:
            self._segments.write(
                record, number, chain=self._chain, synced=self._synced, now_ns=self._clock()
            )
        except OSError as error:
            raise write_error(f"record {number:,} cannot be logged", error) from error
        self._chain = linked(self._chain, record.digest)
        self._appended = number  # last: others may read the record from now on
        return number

    def prepare(self) -> None:
        """Reserve the next segment when half of the present one is used. For idle turns.

        After an append that failed it tells whether the disk can be written to again.

        Raises:
            LogFull, LogFailed: it cannot be reserved; what is reserved already can be filled.
        """
        self._unsynced.check_usable()
        try:
            self._segments.prepare()
        except OSError as error:
            raise write_error("the next segment of the log cannot be reserved", error) from error

    def release(self, upto_record: int, now_ns: int) -> int:
        """Remove segments that nobody needs, but for the spare ones, and return how many.

        Args:
            upto_record: records up to this one are in every checkpoint that is kept.
            now_ns: wall clock, for `keep_seconds`.

        Raises:
            LogFailed: the disk refuses; the rest stays.
        """
        released = 0
        try:
            while self._segments.remove_oldest(upto_record, now_ns):
                released += 1
        except OSError as error:
            raise write_error("the oldest segment of the log cannot be removed", error) from error
        return released

    def sync(self) -> int:
        """Make everything that was appended before this call durable, and return its number.

        Raises:
            LogFailed: the disk could not. What it did not write it may have forgotten, and a
                second try would not tell: the log is `broken`, and only a restart finds out.
        """
        target = self._appended  # before looking at files: whatever is up to it is in them
        self._unsynced.check_usable()
        if target > self._synced or self._unsynced.has_new_names:
            self._unsynced.sync()
        self._synced = max(self._synced, target)
        return self._synced

    # ---- reading --------------------------------------------------------------------------

    def reader(self, after_record: int) -> LogReader:
        """Reads on from a record, also while more is appended."""
        return LogReader(self._disk, self, after_record)

    def segment_with(self, record: int) -> Segment | None:
        """The segment that holds a record, or will; None when it is no longer kept."""
        holding = [each for each in self._segments.all() if each.first_record <= record]
        return holding[-1] if holding else None
