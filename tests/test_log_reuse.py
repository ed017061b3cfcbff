"""Segments that nobody needs any more are written over, and what they held is never seen again."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from insitu.errors import OperatorError
from insitu.stream.log.disk import FileSystemDisk
from insitu.stream.log.errors import LogDamaged, LogFailed
from insitu.stream.log.segment import PREPARED_NAME, read_segment_header, segment_name
from insitu.stream.log.stream_log import StreamLog
from insitu.stream.log.tail import opened as opened_file
from insitu.stream.log.walk import LogWalk
from logged import batch, opened, payload
from simulated_disk import Operation, SimulatedDisk

_SPARE = 2
_SEGMENT_BYTES = 1024


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[FileSystemDisk]:
    disk = FileSystemDisk(tmp_path / "log")
    yield disk
    disk.close()


def _open(disk: FileSystemDisk | SimulatedDisk, after: int = 0, chain: int = 0) -> StreamLog:
    log, found, recovery = opened(
        disk, after, after_chain=chain, segment_bytes=_SEGMENT_BYTES, spare_segments=_SPARE
    )
    assert [each.payload for each in found] == [payload(each.number, 2).tobytes() for each in found]
    assert (recovery.appended, recovery.torn_bytes) == (after + len(found), 0)
    return log


def _append(log: StreamLog, upto: int) -> None:
    while log.appended < upto:
        batch(log, log.appended + 1)


def _reusing(disk: FileSystemDisk | SimulatedDisk, upto: int) -> tuple[StreamLog, list[int]]:
    """A log that was synced and released up to each record, and the chain after every record."""
    log, chains = _open(disk), [0]
    while log.appended < upto:
        _append(log, log.appended + 1)
        chains.append(log.chain)
        log.sync()
        log.release(log.appended, 0)
        log.prepare()
    return log, chains


def _is_reused(disk: FileSystemDisk | SimulatedDisk, name: str) -> bool:
    with opened_file(disk, name) as file:
        header = read_segment_header(file)
    assert not isinstance(header, str)
    return header.is_reused


def _segments(disk: FileSystemDisk | SimulatedDisk) -> list[str]:
    return sorted(name for name in disk.names() if name.startswith("segment"))


def test_a_log_that_is_released_goes_round_in_a_few_files(disk: FileSystemDisk) -> None:
    log, chains = _reusing(disk, 200)
    files = {path.stat().st_ino for path in disk.directory.iterdir()}
    firsts = _segments(disk)
    assert len(firsts) <= _SPARE + 1
    assert all(_is_reused(disk, name) for name in firsts)
    _append(log, 200 + 10 * 4)
    chains.append(log.chain)
    log.close()
    again = _open(disk, 200, chains[200])
    assert (again.appended, again.chain) == (240, chains[-1])
    assert files <= {path.stat().st_ino for path in disk.directory.iterdir()}
    walk = LogWalk(disk)
    assert [record.number for record in walk.records()] == list(range(again.first, 241))
    assert (walk.flaws, walk.torn_reason) == ([], "")
    again.close()


@pytest.mark.parametrize("upto", range(60, 72))
def test_what_an_earlier_segment_left_is_no_part_of_the_log(
    disk: FileSystemDisk, upto: int
) -> None:
    log, chains = _reusing(disk, upto)
    kept = log.first
    log.close()
    newest = _segments(disk)[-1]
    with opened_file(disk, newest) as file:
        whole = bytearray(_SEGMENT_BYTES)
        file.read_into(0, memoryview(whole))
    assert whole.count(b"ISRC") > upto - int(newest[8:28]), "there is nothing of an earlier one"
    log = _open(disk, kept - 1, chains[kept - 1])
    assert log.chain == chains[-1]
    _append(log, upto + 9)
    log.close()
    assert _open(disk, upto, chains[upto]).appended == upto + 9


def test_a_torn_record_in_a_reused_file_is_cut(disk: FileSystemDisk) -> None:
    log, chains = _reusing(disk, 61)
    _append(log, 62)
    log.close()
    name = _segments(disk)[-1]
    with opened_file(disk, name) as file:
        whole = bytearray(_SEGMENT_BYTES)
        file.read_into(0, memoryview(whole))
        place = whole.index(payload(62, 2).tobytes())
        file.write(place, [bytes(8)])
    log, found, recovery = opened(disk, 60, after_chain=chains[60], spare_segments=_SPARE)
    assert ([each.number for each in found], recovery.torn_reason) == (
        [61], "record 62 does not match its digest",
    )  # fmt: skip
    assert 96 < recovery.torn_bytes < 200
    assert batch(log, 62) == 62
    log.close()
    _open(disk, 60, chains[60]).close()


def test_a_file_that_only_got_its_new_name_is_no_segment() -> None:
    """The power goes right after a segment was begun: the name is safe, nothing else is."""
    disk = SimulatedDisk(Random(0))
    log, chains = _reusing(disk, 100)
    while PREPARED_NAME not in disk.names():
        _append(log, log.appended + 1)
        chains.append(log.chain)
        log.sync()
        log.prepare()
    old = disk.bytes_of(PREPARED_NAME)
    synced, names = log.appended, len(_segments(disk))
    while len(_segments(disk)) == names:
        _append(log, log.appended + 1)
    began = log.appended
    log.close()
    disk.put(segment_name(began), old)
    log, found, recovery = opened(disk, synced, after_chain=chains[synced])
    assert (log.appended, recovery.torn_bytes) == (began - 1, 0)
    assert recovery.removed == (segment_name(began),)
    assert [each.number for each in found] == list(range(synced + 1, began))
    log.close()


def test_a_reused_file_that_lost_what_was_synced_is_damage() -> None:
    disk = SimulatedDisk(Random(0))
    log, chains = _reusing(disk, 100)
    old = disk.bytes_of(_segments(disk)[0])
    checkpoint, first = log.appended, len(_segments(disk))
    while len(_segments(disk)) < first + 3:
        _append(log, log.appended + 1)
        log.sync()
    log.close()
    disk.put(_segments(disk)[-2], old)
    with pytest.raises(LogDamaged, match="were safely on the disk"):
        opened(disk, checkpoint, after_chain=chains[checkpoint])
    walk = LogWalk(disk)
    for _ in walk.records():
        pass
    assert any("begins as it did in an earlier use" in flaw for flaw in walk.flaws)


def test_no_file_is_written_over_before_its_old_name_is_gone_for_good() -> None:
    disk = SimulatedDisk(Random(0))
    log, _ = _reusing(disk, 50)
    while PREPARED_NAME in disk.names():
        _append(log, log.appended + 1)
    log.sync()
    log.release(log.appended, 0)
    failed = []

    def before(operation: Operation) -> None:
        assert not (failed and operation.name == "write")
        if operation.name == "sync_names":
            failed.append(operation)
            raise OSError(errno.EIO, "bad")

    disk.before = before
    with pytest.raises(LogFailed, match=r"could not be synced \(bad\)"):
        _append(log, log.appended + 30)
    assert "bad" in log.broken
    disk.before = lambda _operation: None
    with pytest.raises(LogFailed, match="takes nothing more"):
        batch(log, 1)
    log.close()


def test_a_reader_from_outside_is_told_that_its_segment_was_written_over(
    disk: FileSystemDisk,
) -> None:
    log = _open(disk)
    _append(log, 60)
    log.sync()
    walk = LogWalk(disk)
    records = walk.records()
    next(records)
    log.release(60, 0)
    for _ in range(6):
        _append(log, log.appended + 4)
        log.prepare()
    with pytest.raises(OperatorError, match="was released by the service"):
        list(records)
    log.close()


def test_spare_segments_are_as_few_as_was_asked_for(disk: FileSystemDisk) -> None:
    log = _open(disk)
    _append(log, 60)
    segments = log.segments
    log.sync()
    assert log.release(60, 0) == segments - 1 - _SPARE
    assert log.segments == _SPARE + 1
    assert log.release(60, 0) == 0
    log.close()


def test_a_spare_segment_of_another_size_is_removed(disk: FileSystemDisk) -> None:
    log = _open(disk)
    batch(log, 1, rows=100)
    _append(log, 20)
    log.sync()
    log.release(20, 0)
    log.close()
    log, *_ = opened(disk, 20, segment_bytes=2 * _SEGMENT_BYTES, spare_segments=_SPARE)
    log.release(20, 0)
    names = _segments(disk)
    _append(log, 60)
    assert not set(names[:-1]) & set(_segments(disk))
    assert not any(_is_reused(disk, name) for name in _segments(disk)[1:])
    log.close()
