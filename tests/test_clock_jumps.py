"""A wall clock set forwards or backwards by a year: nothing expires, stalls or is negative."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import pytest
import torch

from bad_input import Hostile, assert_balanced, assert_lives, data, payload_of, samples
from bad_input import config as lab_config
from daemon import Daemon
from insitu.batch import Batch, Column
from insitu.memory.composition import composition
from insitu.stream.log.disk import FileSystemDisk
from insitu.stream.steady_clock import SteadyClock
from insitu.wire.messages import Ack
from insitu_service.learning.tally import Tally
from learning import Setup, make_memory
from logged import batch, opened

SECOND = 10**9
YEAR = 365 * 86_400 * SECOND
KEPT_SECONDS = 60.0


class Machine:
    """Both clocks of a machine; time passes, and the wall clock is set."""

    def __init__(self) -> None:
        self.wall_ns = 1_700_000_000 * SECOND
        self.monotonic_ns = 5_000 * SECOND

    def passes(self, seconds: float) -> None:
        self.wall_ns += int(seconds * SECOND)
        self.monotonic_ns += int(seconds * SECOND)

    def clock(self) -> SteadyClock:
        return SteadyClock(lambda: self.wall_ns, lambda: self.monotonic_ns)


JUMPS = pytest.mark.parametrize("jump_ns", [YEAR, -YEAR], ids=["forwards", "backwards"])


@JUMPS
def test_a_steady_clock_follows_the_time_that_passes(jump_ns: int) -> None:
    machine = Machine()
    clock = machine.clock()
    began = clock()
    machine.wall_ns += jump_ns
    assert clock() == began
    machine.passes(2.5)
    assert clock() - began == 2.5 * SECOND


@JUMPS
def test_segments_are_kept_for_as_long_as_was_asked_for(tmp_path: Path, jump_ns: int) -> None:
    """Neither removed at once when the clock goes forwards, nor kept for a year when back."""
    machine = Machine()
    with closing(FileSystemDisk(tmp_path)) as disk:
        clock = machine.clock()
        log, *_ = opened(disk, segment_bytes=1024, keep_seconds=KEPT_SECONDS, clock=clock)
        for value in range(1, 31):
            batch(log, value)
        segments = log.segments
        machine.wall_ns += jump_ns
        machine.passes(KEPT_SECONDS - 1)
        assert log.release(30, clock()) == 0
        machine.passes(2)
        assert log.release(30, clock()) == segments - 1
        log.close()


def test_a_service_that_starts_with_its_clock_set_back_goes_on_from_the_time_of_its_log(
    tmp_path: Path,
) -> None:
    machine = Machine()
    with closing(FileSystemDisk(tmp_path)) as disk:
        log, *_ = opened(disk, segment_bytes=1024, keep_seconds=KEPT_SECONDS, clock=machine.clock())
        for value in range(1, 31):
            batch(log, value)
        log.close()
        machine.wall_ns -= YEAR
        clock = machine.clock()
        log, found, _ = opened(disk, 0, segment_bytes=1024, keep_seconds=KEPT_SECONDS, clock=clock)
        assert len(found) == 30
        clock.not_before(log.newest_segment_at_ns)
        for value in range(31, 41):
            batch(log, value)
        reader, times = log.reader(0), []
        while (record := reader.next()) is not None:
            times.append(record.appended_at_ns)
        reader.close()
        assert times == sorted(times)
        machine.passes(KEPT_SECONDS + 1)
        assert log.release(40, clock()) > 0
        log.close()


def test_an_earlier_time_changes_nothing() -> None:
    machine = Machine()
    clock = machine.clock()
    clock.not_before(machine.wall_ns - YEAR)
    assert clock() == machine.wall_ns


def produced_at(batch: Batch, time_ns: int) -> Batch:
    batch.provenance[:, int(Column.PRODUCED_AT_NS)] = time_ns
    return batch


@pytest.mark.parametrize("offset_ns", [YEAR, -YEAR])
def test_samples_of_a_machine_with_another_time_have_an_age_of_zero_or_more(
    offset_ns: int,
) -> None:
    trainer, tally, memory = Setup().trainer(), Tally(), make_memory()
    fields = {"x": torch.randn(8, 6), "y": torch.zeros(8, dtype=torch.int64)}
    fresh = produced_at(Batch.of(fields), time.time_ns() + offset_ns)
    tally.count(trainer.step(fresh), 0.0, 0.0)
    assert tally.age_samples == 8
    assert tally.age_seconds_sum >= (0.0 if offset_ns > 0 else 8 * 0.9 * YEAR / SECOND)
    memory.add(fresh, torch.zeros(8))
    ages = composition([memory.contents()], time.time_ns()).age_seconds
    assert min(ages.values()) >= 0.0


def test_a_service_takes_samples_from_the_future_and_from_1970(tmp_path: Path) -> None:
    """What producers say of the time changes figures for people, and nothing else."""
    memory = {"name": "replay", "memory": {"name": "reservoir", "capacity_samples": 64}}
    sections = lab_config(
        tmp_path, log={"directory": str(tmp_path / "log"), "keep_seconds": 5.0},
        checkpoint={"directory": str(tmp_path / "checkpoints"), "every_steps": 2},
    ) | {"strategies": [memory]}  # fmt: skip
    with Daemon(tmp_path, sections) as daemon:
        daemon.start()
        with Hostile(daemon.endpoint) as peer:
            session = peer.greet("clock").session
            for number, produced_at_ns in enumerate((time.time_ns() + YEAR, 1, 2**62), start=1):
                payload = payload_of(samples(8))
                place = {"first_row": 8 * (number - 1), "produced_at_ns": produced_at_ns}
                peer.send(data(session, number, payload, **place))
                while peer.expect(Ack).accepted < number:
                    pass
            daemon.wait_metric("insitu_trained_samples_total", 24, source="fresh")
            assert daemon.metric("insitu_sample_age_seconds_sum") >= 0.0
            assert daemon.metric("insitu_memory_age_seconds", share="0.0") == 0.0
        assert_lives(daemon)
        assert_balanced(daemon)
        assert daemon.stop() == 0
