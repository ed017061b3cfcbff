"""Syncing the log before a checkpoint that names one of its records."""

from __future__ import annotations

import errno
from random import Random

import pytest

from insitu.stream.log.errors import LogFailed
from insitu.stream.log.stream_log import StreamLog
from insitu_service.stream_log.syncer import LogSyncer
from logged import SCHEMA, batch, counting_clock
from simulated_disk import Operation, SimulatedDisk


def fails_to_sync(operation: Operation) -> None:
    if operation.name == "sync":
        raise OSError(errno.EIO, "it does not write")


def test_no_checkpoint_is_written_ahead_of_the_log() -> None:
    disk = SimulatedDisk(Random(1))
    log = StreamLog(disk, SCHEMA, segment_bytes=4096, clock=counting_clock())
    log.recover(0, lambda record: None)
    syncer = LogSyncer(log, at_once=False, interval_seconds=1.0)
    batch(log, 1)
    syncer.sync_or_raise()
    assert log.synced == 1
    batch(log, 2)
    disk.before = fails_to_sync
    syncer.sync()  # the syncer's own thread only tells
    assert syncer.problem
    for _ in range(2):
        with pytest.raises(LogFailed, match="no checkpoint is written"):
            syncer.sync_or_raise()
    assert log.synced == 1
    log.close()
