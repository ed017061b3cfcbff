"""The way into the stream through its log: order, backlog, spilling, restarts, a full disk."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from insitu.batch import Batch, Column
from insitu.errors import OperatorError, ProducerError
from insitu.schema import Schema
from insitu.stream.buffer import StreamBuffer
from insitu.stream.log.disk import File, FileSystemDisk
from insitu.stream.log.errors import LogMismatch
from insitu.stream.log.stream_log import StreamLog
from insitu.stream.logged_inlet import LoggedInlet
from insitu.stream.pacing import FixedPace
from insitu.stream.policies import FIFO
from insitu.stream.staging import Staging
from insitu.stream.stamp import Stamp
from insitu.tasks import TaskLedger

SCHEMA = Schema.of({"x": ("int64", ())})
CAPACITY = 16


class FullDisk(FileSystemDisk):
    """A real directory on a disk that can fill up."""

    is_full = False

    def create(self, name: str, size_bytes: int) -> File:
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().create(name, size_bytes)


class Stream:
    """An inlet and its buffer over a directory; `restart` is a new life over the same."""

    def __init__(self, directory: Path, **options: Any) -> None:
        self.directory = directory
        self.options = options
        self.probes: list[tuple[Stamp, Batch]] = []
        self.probes_allowed = True
        self.disk: FullDisk | None = None
        self.begin(None)

    def begin(self, state: dict[str, Any] | None) -> None:
        self.buffer = StreamBuffer(
            SCHEMA, CAPACITY, FIFO(CAPACITY), FixedPace(1.0), TaskLedger(most_tasks=3),
            generator=torch.Generator().manual_seed(1),
        )  # fmt: skip
        if state is not None:
            self.buffer.load_state_dict(state)
        self.disk = FullDisk(self.directory)
        self.log = StreamLog(self.disk, SCHEMA, segment_bytes=4096)
        self.inlet = LoggedInlet(
            self.buffer, self.take_probe, self.log, Staging(SCHEMA, 8), most_rows=8, **self.options
        )
        self.recovery = self.inlet.recover()

    def close(self) -> None:
        assert self.disk is not None
        self.log.close()
        self.disk.close()

    def restart(self, state: dict[str, Any] | None) -> None:
        self.close()
        self.begin(state)

    def take_probe(self, stamp: Stamp, batch: Batch) -> bool:
        if self.probes_allowed:
            self.probes.append((stamp, batch))
        return self.probes_allowed

    def push(
        self, seq: int, rows: int, producer: str = "a", *, task: str = "", probe: bool = False
    ) -> bool:
        reservation = self.inlet.reserve(rows)
        if reservation is None:
            return False
        values = seq * 100 + np.arange(rows)
        raw = np.zeros((rows, 2), np.int64)
        raw[:, 0] = values
        reservation.write(0, raw.tobytes())
        stamp = Stamp(producer, 1, seq, seq, seq * 100, task=task)
        method = self.inlet.probe if probe else self.inlet.commit
        taken = method(reservation, stamp)
        if not taken:
            self.inlet.abandon(reservation)
        return taken

    def draw(self, rows: int) -> list[int]:
        """The values drawn now, up to so many rows."""
        draw = self.buffer.draw(rows, 0.0)
        if draw is None or draw.batch is None:
            return []
        values: list[int] = draw.batch.fields["x"].tolist()
        self.buffer.release(draw)
        return values

    def drain(self) -> list[int]:
        """All that can be drawn, letting the backlog in meanwhile."""
        values: list[int] = []
        while True:
            while self.inlet.tend():
                pass
            drawn = self.draw(1)
            if not drawn:
                return values
            values += drawn


@pytest.fixture
def stream(tmp_path: Path) -> Iterator[Stream]:
    stream = Stream(tmp_path / "log")
    yield stream
    stream.close()


def rows_of(*seqs: int, rows: int = 4) -> list[int]:
    return [seq * 100 + row for seq in seqs for row in range(rows)]


def test_what_is_accepted_is_in_the_log_and_in_the_ring(stream: Stream) -> None:
    assert stream.push(1, 4)
    assert stream.log.appended == 1
    assert stream.buffer.place.record == 1
    assert stream.buffer.place.chain == stream.log.chain
    assert stream.draw(4) == rows_of(1)
    assert (stream.inlet.durable("a", 1), stream.inlet.trained("a", 1)) == (0, 0)
    stream.log.sync()
    stream.draw(1)
    assert (stream.inlet.durable("a", 1), stream.inlet.trained("a", 1)) == (1, 1)
    assert stream.inlet.durable("a", 2) == 0, "another life of this producer"


def test_a_restart_without_a_checkpoint_trains_the_whole_log(stream: Stream) -> None:
    for seq in range(1, 4):
        assert stream.push(seq, 4)
    stream.restart(None)
    position = stream.inlet.position("a")
    assert position is not None
    assert (position.seq, position.rows, position.cursor) == (3, 304, 3)
    assert stream.inlet.durable("a", 1) == 3
    assert stream.inlet.backlog_samples == 12
    assert stream.drain() == rows_of(1, 2, 3)
    assert stream.inlet.backlog_samples == 0


def test_a_restart_goes_on_behind_the_checkpoint(stream: Stream) -> None:
    stream.push(1, 4)
    stream.push(2, 4)
    assert stream.draw(2) == rows_of(1)[:2]
    state = stream.buffer.state_dict()
    state = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in state.items()}
    stream.push(3, 4)
    stream.push(4, 4, "b")
    stream.draw(8)  # this life trains more, and dies
    stream.restart(state)
    assert stream.drain() == rows_of(1)[2:] + rows_of(2, 3, 4)


def test_a_restarted_service_accepts_at_once_and_keeps_the_order(stream: Stream) -> None:
    for seq in range(1, 5):
        assert stream.push(seq, 4), "the ring is full now"
    stream.draw(4)
    assert stream.push(5, 4)
    stream.restart(None)
    for seq in (6, 7):
        assert stream.push(seq, 4), "the ring has not even begun to fill"
    assert stream.inlet.backlog_samples == 28
    stream.inlet.tend()
    assert stream.push(8, 4), "the ring is full of the backlog"
    assert stream.drain() == rows_of(*range(1, 9))
    assert stream.push(9, 4)
    assert stream.buffer.place.record == stream.log.appended == 9
    assert stream.draw(4) == rows_of(9)


def test_behind_the_backlog_there_is_room_for_a_ring(stream: Stream) -> None:
    for seq in range(1, 5):
        assert stream.push(seq, 4)
    stream.restart(None)
    taken = [stream.push(seq, 4) for seq in range(5, 11)]
    assert taken == [True] * 4 + [False] * 2
    assert stream.inlet.free_samples() == 0
    stream.inlet.tend()
    stream.draw(4)
    stream.inlet.tend()
    stream.draw(4)
    stream.drain()
    assert stream.push(9, 4)


def test_a_batch_that_began_in_the_ring_waits_for_its_turn(tmp_path: Path) -> None:
    stream = Stream(tmp_path / "log", spill_samples=64)
    early = stream.inlet.reserve(4)
    assert early is not None
    for seq in range(1, 5):
        assert stream.push(seq, 4, "b"), "the fourth finds the ring full and is spilled"
    assert stream.inlet.backlog_samples == 4
    early.write(0, np.array([[900 + row, 0] for row in range(4)], np.int64).tobytes())
    assert stream.inlet.commit(early, Stamp("a", 1, 1, None, 0))
    assert stream.drain() == rows_of(1, 2, 3, 4, 9)
    stream.close()


def test_a_burst_is_spilled_up_to_the_limit(tmp_path: Path) -> None:
    stream = Stream(tmp_path / "log", spill_samples=8)
    taken = [stream.push(seq, 4) for seq in range(1, 9)]
    # a ring full, then eight; once behind, at least a ring full may follow
    assert taken[:6] == [True] * 6
    count = sum(taken)
    assert stream.drain() == rows_of(*range(1, count + 1))
    stream.close()


def test_probes_and_marks_keep_their_places(stream: Stream) -> None:
    stream.inlet.reopen()
    stream.push(1, 4, task="first")
    stream.push(2, 4, task="first", probe=True)
    stream.inlet.leave("a")
    stream.inlet.end()
    stream.inlet.end()
    assert [stamp.seq for stamp, _ in stream.probes] == [2]
    assert stream.probes[0][1].fields["x"].tolist() == rows_of(2)
    assert stream.log.appended == 4, "batch, probe, leave, end; nothing twice"
    stream.restart(None)
    assert stream.drain() == rows_of(1)
    assert [stamp.seq for stamp, _ in stream.probes] == [2, 2]
    assert stream.buffer.is_ended
    ended = stream.buffer.draw(1, 0.0)
    assert ended is None
    assert stream.buffer.producers_in_tasks() == set()
    stream.inlet.reopen()
    assert stream.push(3, 4)
    assert not stream.buffer.is_ended
    assert stream.draw(4) == rows_of(3)


def test_probes_wait_for_room_without_stopping_the_stream(stream: Stream) -> None:
    stream.probes_allowed = False
    assert stream.push(1, 4, probe=True)
    assert stream.push(2, 4)
    assert stream.draw(4) == []
    stream.probes_allowed = True
    assert stream.drain() == rows_of(2)
    assert len(stream.probes) == 1


def test_probes_of_which_no_row_passed_the_door_are_none(stream: Stream) -> None:
    reservation = stream.inlet.reserve(2)
    assert reservation is not None
    stamp = Stamp("a", 1, 1, None, 0)
    assert stream.inlet.probe(reservation, stamp, keep=np.zeros(2, bool))
    assert [batch.rows for _, batch in stream.probes] == [0]
    assert stream.push(2, 4)
    assert stream.drain() == [*range(200, 204)]


def test_what_did_not_pass_the_door_stays_out_after_a_restart(stream: Stream) -> None:
    reservation = stream.inlet.reserve(4)
    assert reservation is not None
    reservation.write(0, np.array([[row, 0] for row in rows_of(1)], np.int64).tobytes())
    keep = np.array([True, False, True, False])
    assert stream.inlet.commit(reservation, Stamp("a", 1, 1, None, 100), keep=keep)
    assert stream.inlet.skip(Stamp("a", 1, 2, None, 104), 3)
    assert stream.inlet.refuse(Stamp("a", 1, 3, None, 107), 2)
    stream.restart(None)
    assert stream.drain() == [100, 102]
    position = stream.inlet.position("a")
    assert position is not None
    assert (position.seq, position.rows) == (3, 109)
    assert stream.buffer.snapshot().dropped == 2


def test_provenance_is_the_same_by_either_way(stream: Stream) -> None:
    def provenances() -> Sequence[torch.Tensor]:
        draw = stream.buffer.draw(4, 0.0)
        assert draw is not None
        assert draw.batch is not None
        stream.buffer.release(draw)
        names = (Column.ROW, Column.SAMPLE_ID, Column.FLAGS, Column.PRODUCED_AT_NS, Column.TASK)
        return [draw.batch.column(name).clone() for name in names]

    reservation = stream.inlet.reserve(4)
    assert reservation is not None
    reservation.write(0, bytes(reservation.size_bytes))
    stamp = Stamp("a", 1, 1, "here", 7, 123456789, "task", np.array([9, 8, 7, 6]), 3)
    assert stream.inlet.commit(reservation, stamp)
    live = provenances()
    stream.restart(None)
    stream.inlet.tend()
    for ours, theirs in zip(live, provenances(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_full_disk_stops_credit_and_nothing_else(stream: Stream) -> None:
    assert stream.disk is not None
    stream.disk.is_full = True
    seq = 0
    while not stream.inlet.problem:
        seq += 1
        assert seq < 500, "the disk never filled up"
        accepted = stream.push(seq, 4)
        stream.inlet.tend()
        stream.drain()
    assert "No space left" in stream.inlet.problem
    assert stream.inlet.free_samples() == 0
    assert stream.inlet.reserve(1) is None
    stream.inlet.leave("a")  # cannot be written, and is not forgotten
    stream.disk.is_full = False
    stream.inlet.tend()
    assert stream.inlet.problem == "", "the mark could be appended"
    next_seq = seq + 1 if accepted else seq
    assert stream.push(next_seq, 4)
    stream.drain()
    assert stream.push(next_seq + 1, 4)
    assert stream.drain() == rows_of(next_seq + 1)
    stream.restart(None)
    assert stream.drain() == rows_of(*range(1, next_seq + 2))


def test_a_shut_buffer_takes_nothing_and_logs_nothing(stream: Stream) -> None:
    stream.push(1, 4)
    stream.buffer.shut()
    assert not stream.push(2, 4)
    assert not stream.inlet.skip(Stamp("a", 1, 2, None, 200), 1)
    stream.inlet.end()
    assert stream.log.appended == 1


def test_one_task_too_many_is_refused_before_the_log(stream: Stream) -> None:
    for seq, task in enumerate(("one", "two", "three"), start=1):
        assert stream.push(seq, 1, task=task)
    with pytest.raises(ProducerError, match="number 4 of the stream"):
        stream.push(4, 1, task="four")
    assert stream.log.appended == 3
    stream.restart(None)
    with pytest.raises(ProducerError, match="number 4 of the stream"):
        stream.push(4, 1, task="four")  # none of the three has an index yet
    assert stream.log.appended == 3


def test_a_log_of_another_run_is_refused(stream: Stream, tmp_path: Path) -> None:
    stream.push(1, 4)
    state = stream.buffer.state_dict()
    other = Stream(tmp_path / "other")
    other.push(7, 4)
    with pytest.raises(LogMismatch, match="chain"):
        other.restart(state)
    other.close()


def test_a_batch_beyond_the_sure_room_is_refused_at_the_start(stream: Stream) -> None:
    assert stream.push(1, 4)
    stream.close()
    log = StreamLog(disk := FileSystemDisk(stream.directory), SCHEMA, segment_bytes=4096)
    inlet = LoggedInlet(stream.buffer, stream.take_probe, log, Staging(SCHEMA, 8), most_rows=3)
    stream.buffer._place = type(stream.buffer.place)(0)
    with pytest.raises(OperatorError, match="holds 4 samples"):
        inlet.recover()
    disk.close()
    stream.begin(None)


def test_segments_go_when_no_checkpoint_needs_them(stream: Stream) -> None:
    for seq in range(1, 200):
        assert stream.push(seq, 4)
        stream.draw(4)
    stream.log.sync()
    before = stream.log.segments
    stream.inlet.release(150)
    stream.inlet.tend()
    assert 1 <= stream.log.segments < before
    assert stream.log.first <= 151
