"""The watchdog, the alarm and the log's syncer, without a service."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from daemon import wait_for
from insitu.schema import Schema
from insitu.stream.log.disk import FileSystemDisk
from insitu.stream.log.record import Kind
from insitu.stream.log.stream_log import StreamLog
from insitu.stream.stamp import Stamp
from insitu_service.exit_codes import HANG
from insitu_service.stream_log.syncer import LogSyncer
from insitu_service.supervision.alarm import Alarm
from insitu_service.supervision.beat import Beat
from insitu_service.supervision.watchdog import Watchdog

SCHEMA = Schema.of({"x": ("int64", ())})


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def watched() -> Iterator[tuple[Watchdog, Beat, Clock, list[int]]]:
    clock, left = Clock(), list[int]()
    beat = Beat(30.0, clock)
    watchdog = Watchdog({"learner": beat}, timer_seconds=3600.0, leave=left.append, clock=clock)
    yield watchdog, beat, clock, left
    watchdog.close()


def test_a_worker_that_comes_by_is_left_alone(watched) -> None:
    watchdog, beat, clock, left = watched
    for _ in range(100):
        clock.now += 1.0
        beat()
        assert watchdog.look()
    assert left == []


def test_a_worker_that_stays_away_ends_the_process(watched) -> None:
    watchdog, _, clock, left = watched
    while not left:
        clock.now += 1.0
        assert clock.now < 60
        watchdog.look()
    assert (left, clock.now) == ([HANG], 30.0)


def test_a_process_that_was_stopped_gives_its_workers_time(watched) -> None:
    watchdog, beat, clock, left = watched
    watchdog.look()
    clock.now += 1000.0
    assert watchdog.look(), "nobody could come by"
    clock.now += 1.0
    assert watchdog.look()
    assert left == []
    assert beat.age_seconds == 1.0


def test_the_alarm_tells_once_for_each_time() -> None:
    reason, told = [""], []
    alarm = Alarm(lambda: reason[0], lambda kind, text: told.append((kind, text)))
    for text in ("", "full", "full", "still full", "", "", "full"):
        reason[0] = text
        alarm.look()
    assert told == [("ingest_stopped", "full")] * 2


class SlowLog(StreamLog):
    """A log whose disk syncs when it is let."""

    def __init__(self, directory: Path) -> None:
        self.may_sync = threading.Event()
        super().__init__(FileSystemDisk(directory), SCHEMA, segment_bytes=4096)
        self.recover(0, lambda record: None)

    def sync(self) -> int:
        self.may_sync.wait(30)
        return super().sync()

    def add(self) -> int:
        rows = [np.zeros((1, SCHEMA.row_bytes), np.uint8)]
        return self.append(Kind.BATCH, Stamp("a", 1, self.appended + 1, None, 0), 1, payload=rows)


def test_one_sync_covers_all_that_came_during_the_one_before(tmp_path: Path) -> None:
    log, told = SlowLog(tmp_path / "log"), []
    syncer = LogSyncer(
        log, at_once=True, interval_seconds=60.0, on_synced=lambda: told.append(log.synced)
    )
    syncer.start()
    log.add()
    syncer.notice()
    wait_for(lambda: syncer._began_at is not None, "the first sync to begin")
    for _ in range(20):
        log.add()
        syncer.notice()
    assert log.synced == 0
    log.may_sync.set()
    wait_for(lambda: log.synced == 21, "all to be synced")
    syncer.close()
    assert syncer.syncs <= 2, "not one for each"
    assert told[-1] == 21
    assert syncer.problem == ""


def test_what_is_appended_at_the_end_is_synced_before_the_thread_is_gone(tmp_path: Path) -> None:
    log = SlowLog(tmp_path / "log")
    log.may_sync.set()
    syncer = LogSyncer(log, at_once=False, interval_seconds=3600.0)
    syncer.start()
    log.add()
    syncer.close()
    assert log.synced == 1


def test_a_sync_that_takes_long_is_a_problem(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("insitu_service.stream_log.syncer._STALL_SECONDS", 0.05)
    log = SlowLog(tmp_path / "log")
    syncer = LogSyncer(log, at_once=True, interval_seconds=60.0)
    syncer.start()
    log.add()
    syncer.notice()
    wait_for(lambda: "has not synced" in syncer.problem, "the stall to be told")
    log.may_sync.set()
    wait_for(lambda: not syncer.problem, "the stall to be over")
    syncer.close()
