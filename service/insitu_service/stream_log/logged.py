"""The stream log of a service: its parts, made of the configuration, and what keeps it small."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from insitu.checkpoint import list_checkpoints, read_manifest
from insitu.config.log import LogSection
from insitu.errors import OperatorError
from insitu.stream.buffer import StreamBuffer
from insitu.stream.inlet import ProbeSink
from insitu.stream.log.disk import FileSystemDisk
from insitu.stream.log.recovery import Recovery
from insitu.stream.log.stream_log import StreamLog
from insitu.stream.logged_inlet import LoggedInlet
from insitu.stream.staging import Staging
from insitu.stream.steady_clock import SteadyClock
from insitu.wire.messages import AckLevel
from insitu_service.stream_log.syncer import LogSyncer

_log = logging.getLogger("insitu.log")

#: name in the info of a checkpoint: the newest record that is in it
RECORD = "log_record"
#: put together beside the ring at a time, at least
_STAGING_BYTES = 32 << 20
#: segments that nobody needs and that stay to be written over, however many a checkpoint sets free
_SPARE_SEGMENTS = 4


@dataclass(frozen=True)
class LogParts:
    """What a service with a log has more than one without."""

    disk: FileSystemDisk
    log: StreamLog
    syncer: LogSyncer
    inlet: LoggedInlet
    recovery: Recovery
    retention: LogRetention

    def close(self) -> None:
        """Sync what is left and let go of the files; nobody appends any more."""
        self.syncer.close()
        self.log.close()
        self.disk.close()


def _nothing() -> None:
    """For a service without a log."""


@dataclass
class LogHooks:
    """What the checkpoint writer does for the log; set once there is one.

    A checkpoint names a record, so the log is synced up to it first: after power loss no
    checkpoint is ahead of the log.
    """

    before_write: Callable[[], None] = _nothing
    after_write: Callable[[], None] = _nothing


class LogRetention:
    """Says which records no kept checkpoint needs any more.

    Args:
        root: directory of the checkpoints.
        release: told the newest such record; called by the checkpoint writer's thread.
    """

    def __init__(self, root: Path, release: Callable[[int], None]) -> None:
        self._root = root
        self._release = release
        self._records: dict[str, int] = {}

    def look(self) -> None:
        """The kept checkpoints are others than before."""
        kept = {path.name: self._record(path) for path in list_checkpoints(self._root)}
        self._records = {name: r for name, r in kept.items() if r is not None}
        if self._records:
            self._release(min(self._records.values()))

    def _record(self, path: Path) -> int | None:
        """The newest record in a checkpoint; None when nobody can resume from it."""
        if path.name in self._records:
            return self._records[path.name]
        try:
            return int(read_manifest(path).info.get(RECORD, 0))
        except OperatorError:
            return None


def ack_level(section: LogSection) -> AckLevel:
    """What an ack of this service is worth."""
    if section.ack_level != "auto":
        return AckLevel(section.ack_level)
    return AckLevel.RECEIVED if section.directory is None else AckLevel.LOGGED


def open_log(
    section: LogSection,
    directory: Path,
    checkpoints: Path,
    buffer: StreamBuffer,
    probes: ProbeSink,
    *,
    resumed: bool,
    batch_size: int,
    max_batch_bytes: int,
) -> LogParts:
    """Open the log, and read what stands in it behind the buffer's place.

    Raises:
        OperatorError: it cannot be had, does not go with the checkpoint, or holds a stream that
            nobody asked to resume.
    """
    disk, clock = FileSystemDisk(directory), SteadyClock()
    log = StreamLog(
        disk,
        buffer.schema,
        segment_bytes=section.segment_bytes,
        spare_segments=_SPARE_SEGMENTS,
        keep_bytes=section.keep_bytes,
        keep_seconds=section.keep_seconds,
        clock=clock,
    )
    syncer = LogSyncer(
        log,
        at_once=ack_level(section) == AckLevel.DURABLE,
        interval_seconds=section.sync_seconds,
    )
    row_bytes = buffer.schema.row_bytes
    staged = max(max_batch_bytes, _STAGING_BYTES) // row_bytes
    inlet = LoggedInlet(
        buffer,
        probes,
        log,
        Staging(buffer.schema, max(1, staged)),
        most_rows=buffer.largest_reservation(batch_size),
        spill_samples=section.spill_bytes // row_bytes,
        on_appended=syncer.notice,
        clock=clock,
    )
    began = time.monotonic()
    recovery = inlet.recover()
    clock.not_before(log.newest_segment_at_ns)
    if not resumed and log.appended:
        raise OperatorError(
            f"the stream log in {directory} holds {log.appended} records of an earlier run",
            consequence="a new run cannot write to it; nothing starts",
            remedy="go on with --resume, or move the directory away (insitu replay trains on it)",
        )
    if inlet.backlog_samples:
        _log.info(
            "the stream log holds %d samples that the checkpoint does not; read in %.2f s, they "
            "are trained first",
            inlet.backlog_samples,
            time.monotonic() - began,
        )
    retention = LogRetention(checkpoints, inlet.release)
    retention.look()
    return LogParts(disk, log, syncer, inlet, recovery, retention)
