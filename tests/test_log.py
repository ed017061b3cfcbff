"""The stream log on a real directory: what goes in comes out, in order, after any stop."""

from __future__ import annotations

import errno
import os
import signal
import stat
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from insitu.batch import SampleFlag
from insitu.errors import InternalError, ProducerError
from insitu.schema import Schema
from insitu.stream.log.disk import FileSystemDisk
from insitu.stream.log.errors import LogDamaged, LogFailed, LogInUse, LogMismatch
from insitu.stream.log.record import Kind
from insitu.stream.log.segment import PREPARED_NAME, segment_name
from insitu.stream.log.stream_log import StreamLog
from insitu.stream.stamp import Stamp
from logged import SCHEMA, Found, batch, copied, opened, payload, stamp


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[FileSystemDisk]:
    disk = FileSystemDisk(tmp_path / "log")
    yield disk
    disk.close()


def _read(log: StreamLog, after_record: int = 0) -> list[Found]:
    reader, found = log.reader(after_record), []
    while (record := reader.next()) is not None:
        found.append(copied(record))
    reader.close()
    return found


def test_every_kind_comes_back_as_it_was(disk: FileSystemDisk) -> None:
    log, *_ = opened(disk)
    keep = np.array([True, False, True])
    ids, times = np.array([5, -6, 7]), np.array([2**62, 1, 2])
    flags = np.array([0, SampleFlag.NO_REPLAY, 0])
    full = stamp(1, task="a", sample_ids=ids, produced_at_ns=times, flags=flags, cursor="step 3")
    log.append(Kind.BATCH, full, 3, keep=keep, payload=[payload(1, 1), payload(2, 2)])
    log.append(Kind.PROBE, stamp(2, flags=1), 1, payload=[payload(3, 1).tobytes()])
    log.append(Kind.SKIP, stamp(3, cursor=None), 4)
    log.append(Kind.REFUSE, stamp(4, task="b", cursor=0.5), 5)
    log.append(Kind.LEAVE, Stamp("camera", 0, 0, None, 0), 0)
    log.append(Kind.END, None, 0)
    assert log.append(Kind.REOPEN, None, 0) == 7
    log.close()

    log, found, recovery = opened(disk)
    assert found == _read_all_equal(found, log)
    assert [each.kind for each in found] == list(Kind)
    assert [each.number for each in found] == list(range(1, 8))
    assert (recovery.appended, recovery.records, recovery.torn_bytes) == (7, 7, 0)
    first = found[0]
    assert first.stamp is not None
    assert (first.rows, first.keep) == (3, [True, False, True])
    assert first.payload == payload(1, 1).tobytes() + payload(2, 2).tobytes()
    assert (first.stamp.task, first.stamp.cursor, first.stamp.first_row) == ("a", "step 3", 10)
    np.testing.assert_array_equal(first.stamp.sample_ids, ids)
    np.testing.assert_array_equal(first.stamp.produced_at_ns, times)
    np.testing.assert_array_equal(first.stamp.flags, flags)
    assert found[1].stamp == stamp(2, flags=1)
    assert found[2].stamp == stamp(3, cursor=None)
    assert found[3].stamp == stamp(4, task="b", cursor=0.5)
    assert found[4].stamp == Stamp("camera", 0, 0, None, 0)
    assert found[5].stamp is found[6].stamp is None
    log.close()


def _read_all_equal(found: list[Found], log: StreamLog) -> list[Found]:
    """`found` again if a reader gives the same, but for arrays, which compare by row."""
    again = _read(log)
    assert [(f.number, f.payload, f.chain) for f in again] == [
        (f.number, f.payload, f.chain) for f in found
    ]
    return found


def test_a_reader_follows_the_log_over_segments(disk: FileSystemDisk) -> None:
    log, *_ = opened(disk, segment_bytes=1024)
    reader = log.reader(0)
    assert reader.next() is None
    for value in range(1, 40):
        batch(log, value, rows=1 + value % 5)
        record = reader.next()
        assert record is not None
        assert (record.number, record.rows) == (value, 1 + value % 5)
        assert bytes(record.payload) == payload(value, record.rows).tobytes()
        assert reader.next() is None
        assert record.chain == log.chain
    assert log.segments > 5
    assert [found.number for found in _read(log, 17)] == list(range(18, 40))
    reader.close()
    log.close()


def test_recovery_starts_behind_the_checkpoint(disk: FileSystemDisk) -> None:
    log, *_ = opened(disk, segment_bytes=1024)
    chains = [0]
    for value in range(1, 30):
        batch(log, value)
        chains.append(log.chain)
    log.close()
    for after in range(30):
        log, found, recovery = opened(disk, after, after_chain=chains[after])
        assert [each.number for each in found] == list(range(after + 1, 30))
        assert recovery.chain == log.chain == chains[-1]
        assert (log.appended, log.first) == (29, 1)
        log.close()
        with pytest.raises(LogMismatch, match="chain"):
            opened(disk, after, after_chain=chains[after] ^ 1)
    with pytest.raises(LogMismatch, match=r"good up to record 29.*move it away"):
        opened(disk, 30)


def test_an_empty_log_goes_on_where_the_checkpoint_ends(disk: FileSystemDisk) -> None:
    with pytest.raises(LogMismatch, match="the log is empty"):
        opened(disk, 12)
    log, _, recovery = opened(disk, 12, after_chain=99)
    assert (recovery.first, recovery.appended, recovery.chain) == (13, 12, 99)
    assert batch(log, 1) == 13
    log.close()
    log, found, _ = opened(disk, 12, after_chain=99)
    assert [each.number for each in found] == [13]
    log.close()
    log, *_ = opened(disk, 12, after_chain=99)
    log.sync()
    for value in range(40):
        batch(log, value)
    assert log.release(60, 0) == 1
    log.close()
    with pytest.raises(
        LogMismatch, match=r"begins at record \d+, wanted is what follows record 12"
    ):
        opened(disk, 12, after_chain=99)


def test_a_record_larger_than_a_segment_gets_its_own(disk: FileSystemDisk) -> None:
    log, *_ = opened(disk, segment_bytes=1024)
    batch(log, 1, rows=1)
    batch(log, 2, rows=100)
    batch(log, 3, rows=1)
    log.close()
    log, found, _ = opened(disk, segment_bytes=1024)
    assert [each.rows for each in found] == [1, 100, 1]
    log.close()


def test_a_large_record_right_after_a_restart_replaces_an_empty_segment(
    disk: FileSystemDisk,
) -> None:
    log, *_ = opened(disk, segment_bytes=1024)
    log.append(Kind.END, None, 0)
    log.close()
    file = disk.open(segment_name(1))
    file.clear_from(_header_bytes())
    file.close()
    log, found, recovery = opened(disk)
    assert (found, recovery.appended, log.first) == ([], 0, 1)
    assert batch(log, 5, rows=50) == 1
    log.sync()
    log.close()
    log, found, _ = opened(disk)
    assert [each.rows for each in found] == [50]
    log.close()


def _header_bytes() -> int:
    from insitu.stream.log.segment import SegmentHeader

    return SegmentHeader(SCHEMA, 1, 0, 0, 0).size_bytes


def test_a_torn_tail_is_cut_and_the_log_goes_on(disk: FileSystemDisk) -> None:
    log, *_ = opened(disk)
    for value in range(1, 4):
        batch(log, value)
    log.close()
    file = disk.open(segment_name(1))
    whole = bytearray(file.size_bytes)
    file.read_into(0, memoryview(whole))
    end = len(whole.rstrip(b"\0"))
    file.write(end - 5, [bytes(5)])
    file.close()

    log, found, recovery = opened(disk)
    assert [each.number for each in found] == [1, 2]
    assert recovery.torn_bytes > 100
    assert "digest" in recovery.torn_reason
    assert batch(log, 7, rows=1) == 3
    log.close()
    log, found, recovery = opened(disk)
    assert [each.payload[:32] for each in found] == [payload(v, 1).tobytes() for v in (1, 2, 7)]
    assert recovery.torn_bytes == 0
    log.close()


def _flip(disk: FileSystemDisk, name: str, offset: int, bit: int = 0) -> None:
    file, byte = disk.open(name), bytearray(1)
    file.read_into(offset, memoryview(byte))
    file.write(offset, [bytes([byte[0] ^ 1 << bit])])
    file.close()


def test_damage_of_what_was_synced_is_not_taken_for_a_tear(disk: FileSystemDisk) -> None:
    log, *_ = opened(disk)
    batch(log, 1)
    batch(log, 2)
    assert log.sync() == 2
    batch(log, 3)  # says that 2 was synced
    log.close()
    _, found, _ = opened(disk)
    begin, size = _header_bytes(), 96 + 2 * SCHEMA.row_bytes
    for offset in range(begin + 2 * size):  # the header of the segment included
        _flip(disk, segment_name(1), offset)
        with pytest.raises(LogDamaged, match=r"record [12] .* all up to 2 were safely on the d"):
            opened(disk)
        _flip(disk, segment_name(1), offset)
    assert [each.number for each in found] == [1, 2, 3]
    _flip(disk, segment_name(1), begin + 10)
    log, found, recovery = opened(disk, cut_damage=True)
    assert (found, recovery.appended, recovery.torn_bytes > 0) == ([], 0, True)
    log.close()


def test_released_segments_are_gone_oldest_first(disk: FileSystemDisk) -> None:
    log, *_ = opened(disk, segment_bytes=1024)
    for value in range(1, 31):
        batch(log, value)
    firsts = sorted(int(name[8:28]) for name in disk.names() if name.startswith("segment"))
    assert log.release(firsts[3] - 2, 0) == 2
    assert log.first == firsts[2]
    assert log.release(firsts[3] - 1, 0) == 1
    assert log.release(1000, 0) == len(firsts) - 4  # never the one being written
    assert (log.first, log.segments) == (firsts[-1], 1)
    with pytest.raises(LogMismatch, match="no longer"):
        log.reader(3).next()
    log.close()
    log, found, _ = opened(disk, 30)
    assert (found, log.appended) == ([], 30)
    log.close()


def test_what_is_to_be_kept_stays(disk: FileSystemDisk) -> None:
    log, *_ = opened(disk, segment_bytes=1024, keep_bytes=4096)
    for value in range(1, 31):
        batch(log, value)
    log.release(30, 0)
    assert log.segments == 4
    log.close()

    log, *_ = opened(disk, 30, segment_bytes=1024, keep_seconds=1.0)
    assert log.release(30, 10**9) == 0  # the clock of the test stands at about 1000 ns
    assert log.release(30, 10**9 + 2000) == 3
    log.close()


def test_a_segment_is_prepared_once_half_of_the_last_is_used(disk: FileSystemDisk) -> None:
    log, *_ = opened(disk, segment_bytes=1024)
    log.prepare()
    assert PREPARED_NAME in disk.names()
    batch(log, 1)
    assert PREPARED_NAME not in disk.names()
    log.prepare()
    assert PREPARED_NAME not in disk.names()
    batch(log, 2)
    batch(log, 3)
    log.prepare()
    assert PREPARED_NAME in disk.names()
    log.close()
    log, found, recovery = opened(disk, segment_bytes=1024)
    assert PREPARED_NAME not in disk.names()
    assert (len(found), recovery.removed) == (3, ())
    log.close()


def test_two_services_cannot_share_a_directory(disk: FileSystemDisk) -> None:
    with pytest.raises(LogInUse, match="another service writes"):
        FileSystemDisk(disk.directory)
    FileSystemDisk(disk.directory, writable=False).close()
    disk.close()
    again = FileSystemDisk(disk.directory)
    with pytest.raises(LogInUse):
        FileSystemDisk(disk.directory)
    again.close()
    disk.__init__(disk.directory)  # for the fixture to close


def test_files_are_for_their_owner_only(disk: FileSystemDisk) -> None:
    log, *_ = opened(disk)
    batch(log, 1)
    log.prepare()
    log.close()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in disk.directory.iterdir()}
    assert len(modes) >= 2
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(disk.directory.stat().st_mode) == 0o700


def test_files_that_are_not_ours_are_left_alone(disk: FileSystemDisk) -> None:
    log, *_ = opened(disk)
    batch(log, 1)
    log.close()
    for name in ("notes.txt", "segment-1.log", "segment-00000000000000000002.log.bak"):
        (disk.directory / name).write_bytes(b"mine")
    log, found, recovery = opened(disk)
    assert len(found) == 1
    assert recovery.foreign == (
        "notes.txt", "segment-00000000000000000002.log.bak", "segment-1.log",
    )  # fmt: skip
    assert (disk.directory / "notes.txt").read_bytes() == b"mine"
    log.close()


def test_a_segment_of_another_log_does_not_continue_this_one(
    disk: FileSystemDisk, tmp_path: Path
) -> None:
    other = FileSystemDisk(tmp_path / "other")
    for each, start in ((disk, 0), (other, 100)):
        log, *_ = opened(each, segment_bytes=1024)
        for value in range(start, start + 12):
            batch(log, value)
        log.close()
    name = sorted(disk.names())[-1]
    assert name in other.names()
    (other.directory / name).replace(disk.directory / name)
    other.close()
    log, found, recovery = opened(disk)
    assert [each.number for each in found] == list(range(1, int(name[8:28])))
    assert "does not continue the chain" in recovery.torn_reason
    log.close()


@pytest.mark.parametrize("content", [b"", b"\0" * 4096, b"INSITLOG", b"something else" * 9])
def test_a_segment_that_was_only_begun_is_removed(disk: FileSystemDisk, content: bytes) -> None:
    log, *_ = opened(disk)
    batch(log, 1)
    log.close()
    (disk.directory / segment_name(2)).write_bytes(content)
    log, found, recovery = opened(disk)
    assert [each.number for each in found] == [1]
    assert recovery.removed == (segment_name(2),)
    assert recovery.torn_bytes == len(content.rstrip(b"\0"))
    assert batch(log, 2) == 2
    log.close()


def test_another_schema_or_version_is_refused(disk: FileSystemDisk) -> None:
    log, *_ = opened(disk)
    batch(log, 1)
    log.close()
    other = StreamLog(disk, Schema.of({"x": ("float32", (4,))}))
    with pytest.raises(LogMismatch, match=r"another schema: .*field 'y' is unknown"):
        other.recover(0, print)
    from insitu.stream.log.segment import SegmentHeader

    file = disk.open(segment_name(1))
    file.write(0, [SegmentHeader(SCHEMA, 1, 0, 0, 0, version=1).encode()])
    file.close()
    with pytest.raises(LogMismatch, match="format version 1"):
        opened(disk)


def test_syncing_beside_appending_claims_nothing_too_early(disk: FileSystemDisk) -> None:
    log, *_ = opened(disk, segment_bytes=2048)
    done, seen = threading.Event(), []

    def synced() -> None:
        while not done.is_set():
            before = log.appended
            number = log.sync()
            seen.append((before, number, log.appended))

    thread = threading.Thread(target=synced)
    thread.start()
    for value in range(1, 200):
        batch(log, value)
    done.set()
    thread.join()
    assert all(before <= number <= after for before, number, after in seen)
    assert log.sync() == log.synced == 199
    log.close()
    _, found, _ = opened(disk, segment_bytes=2048)
    assert len(found) == 199


def test_wrong_calls_are_refused_before_anything_is_written(disk: FileSystemDisk) -> None:
    log, *_ = opened(disk)
    with pytest.raises(ProducerError, match=r"shape \(3,\) for 2 rows"):
        log.append(Kind.BATCH, stamp(1, flags=[1, 2, 3]), 2, payload=[payload(1, 2)])
    with pytest.raises(ProducerError, match="times, sample ids or flags"):
        log.append(Kind.BATCH, stamp(1, sample_ids=[2**63, 0]), 2, payload=[payload(1, 2)])
    with pytest.raises(InternalError, match="96 bytes"):
        log.append(Kind.BATCH, stamp(1), 2, payload=[payload(1, 3)])
    with pytest.raises(InternalError, match="mask"):
        log.append(Kind.BATCH, stamp(1), 2, keep=np.ones(3, bool), payload=[payload(1, 2)])
    with pytest.raises(InternalError, match="a LEAVE record with the stamp None"):
        log.append(Kind.LEAVE, None, 0)
    assert log.appended == 0
    log.close()
    with pytest.raises(LogFailed, match="closed"):
        batch(log, 1)


def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a file")
    with pytest.raises(LogFailed, match="cannot be used") as caught:
        FileSystemDisk(tmp_path / "log")
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.EEXIST


def _append_for_ever(directory: Path, told: int) -> None:
    """In a process that will be killed: writes the number of every record that is appended."""
    log, found, _ = opened(FileSystemDisk(directory), segment_bytes=1 << 18)
    for value in range(len(found) + 1, 10**6):
        number = batch(log, value, rows=1 + value * 37 % 900)
        if value % 7 == 0:
            log.prepare()
        os.write(told, number.to_bytes(8, "little"))


def test_a_killed_process_loses_nothing_that_it_told_of(tmp_path: Path) -> None:
    directory, told = tmp_path / "log", 0
    for life in range(5):
        reading, writing = os.pipe()
        with warnings.catch_warnings():  # it only appends; the threads of torch are not needed
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            try:
                _append_for_ever(directory, writing)
            finally:
                os._exit(1)
        os.close(writing)
        for _ in range(40 + 33 * life):
            told = int.from_bytes(os.read(reading, 8), "little")
        os.kill(child, signal.SIGKILL)
        while rest := os.read(reading, 8):
            told = int.from_bytes(rest, "little")
        os.waitpid(child, 0)
        os.close(reading)
        disk = FileSystemDisk(directory)
        log, found, recovery = opened(disk, segment_bytes=1 << 18)
        assert recovery.appended in (told, told + 1)
        for each in found:
            value = each.number
            assert each.payload == payload(value, 1 + value * 37 % 900).tobytes()
        log.close()
        disk.close()
    assert log.segments > 1
