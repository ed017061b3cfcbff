"""Samples outside the model's device: in host memory, and in a file that outlives the process."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from insitu.batch import Batch
from insitu.checkpoint import SnapshotBuffers, newest_good, prune, write_checkpoint
from insitu.errors import InternalError, OperatorError
from insitu.memory.device_room import DeviceRoom
from insitu.memory.disk_room import DiskRoom
from insitu.memory.host_room import HostRoom
from insitu.memory.places import Places
from insitu.memory.reservoir import Reservoir
from insitu.memory.room import Room
from insitu.memory.store import SampleStore
from insitu.schema import DTYPES
from insitu.strategies.replay import ExperienceReplay
from insitu.trainer import Trainer
from learning import Setup, assert_same, copied, make_batch

_CPU = torch.device("cpu")


def _device(capacity: int, directory: Path) -> Room:
    return DeviceRoom(capacity, _CPU)


def _host(capacity: int, directory: Path) -> Room:
    return HostRoom(capacity, _CPU)


def _disk(capacity: int, directory: Path) -> DiskRoom:
    return DiskRoom(capacity, _CPU, directory, quarantine_checkpoints=2)


every_room = pytest.mark.parametrize("make", [_device, _host, _disk])
MakeRoom = Callable[[int, Path], Room]


def _memory(room: Room, seed: int = 0) -> Reservoir:
    memory = Reservoir(room.capacity_samples, _CPU, torch.Generator().manual_seed(seed))
    memory.keep_in(SampleStore(room.capacity_samples, _CPU, room=room))
    return memory


def _batch(start: int, rows: int) -> Batch:
    number = torch.arange(start, start + rows)
    return Batch.of({"x": number[:, None] * torch.ones(7), "y": number})


# All rooms alike


@every_room
@given(writes=st.lists(st.lists(st.integers(0, 9), unique=True, min_size=1), max_size=15))
def test_every_slot_holds_what_was_last_written(
    make: MakeRoom, writes: list[list[int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    room, held, number = make(10, tmp_path_factory.mktemp("room")), {}, 0
    for slots in [list(range(10)), *writes]:
        batch = _batch(number, len(slots))
        room.prepare(batch.fields)
        room.write(np.array(slots), batch.fields, slice(0, len(slots)))
        held.update({slot: number + row for row, slot in enumerate(slots)})
        number += len(slots)
        if number % 3 == 0:
            room.state_dict(len(held))
    fields = room.read(np.array(list(held)))
    assert fields["y"].tolist() == list(held.values())
    assert fields["x"][:, 6].tolist() == list(held.values())
    if isinstance(room, DiskRoom):
        room.close()


@every_room
@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_every_dtype_comes_back_bit_for_bit(make: MakeRoom, dtype: str, tmp_path: Path) -> None:
    room, bits = make(5, tmp_path), torch.randint(2, (4, 3, 16), dtype=torch.uint8)
    fields = {"bits": bits.view(getattr(torch, dtype)), "x": torch.zeros(4)}
    room.prepare(fields)
    room.write(slice(0, 2), fields, np.array([3, 1]))
    found = room.read(np.array([1, 0, 1]))["bits"]
    assert found.dtype == getattr(torch, dtype)
    assert torch.equal(found.view(torch.uint8), bits[[1, 3, 1]])


@every_room
def test_where_samples_lie_changes_nothing_that_is_drawn(make: MakeRoom, tmp_path: Path) -> None:
    plain, other = _memory(_device(9, tmp_path)), _memory(make(9, tmp_path))
    for start in range(0, 60, 5):
        for memory in (plain, other):
            memory.add(_batch(start, 5))
        one, two = plain.sample(4), other.sample(4)
        assert one is not None
        assert two is not None
        assert_same(dict(one.fields), dict(two.fields))
        other.state_dict()


def test_states_of_device_and_host_are_the_same(tmp_path: Path) -> None:
    device, host = _memory(_device(9, tmp_path)), _memory(_host(9, tmp_path))
    device.add(_batch(0, 20))
    host.load_state_dict(copied(device.state_dict()))
    assert_same(copied(host.state_dict()), copied(device.state_dict()))


def test_a_state_of_another_placement_is_refused(tmp_path: Path) -> None:
    device, disk = _memory(_device(9, tmp_path)), _memory(_disk(9, tmp_path))
    device.add(_batch(0, 3))
    with pytest.raises(OperatorError, match=r"memory\.placement that it was saved with"):
        disk.load_state_dict(copied(device.state_dict()))


def test_a_memory_that_holds_samples_does_not_move(tmp_path: Path) -> None:
    memory = _memory(_device(9, tmp_path))
    memory.add(_batch(0, 3))
    with pytest.raises(InternalError, match="with 3 of 9 samples was to be moved"):
        memory.keep_in(SampleStore(9, _CPU))


# The file


def _reopened(state: object, directory: Path, capacity: int = 9) -> Reservoir:
    memory = _memory(_disk(capacity, directory), seed=5)
    memory.load_state_dict(state)  # type: ignore[arg-type]
    return memory


def _room(memory: Reservoir) -> DiskRoom:
    room = memory._store.room
    assert isinstance(room, DiskRoom)
    return room


def test_a_state_holds_no_samples_and_stays_true_while_the_run_goes_on(tmp_path: Path) -> None:
    memory = _memory(_disk(9, tmp_path))
    memory.add(_batch(0, 9))
    saved = copied(memory.state_dict())
    assert "fields" not in saved["samples"]
    expected = memory.read(np.arange(9)).fields["y"].tolist()
    for start in range(9, 300, 3):
        memory.add(_batch(start, 3))
    assert memory.read(np.arange(9)).fields["y"].tolist() != expected
    _room(memory).close()
    again = _reopened(saved, tmp_path)
    assert again.read(np.arange(9)).fields["y"].tolist() == expected
    assert torch.equal(again.provenance, saved["samples"]["provenance"])


def test_a_state_whose_samples_were_overwritten_is_refused(tmp_path: Path) -> None:
    memory = _memory(_disk(9, tmp_path))
    memory.add(_batch(0, 9))
    saved = copied(memory.state_dict())
    _room(memory).close()
    [stamps] = tmp_path.glob("*.stamps")
    numbers = np.fromfile(stamps, np.int64)
    numbers[np.array(saved["samples"]["file"]["places"].tolist())[:2]] += 1
    numbers.tofile(stamps)
    with pytest.raises(OperatorError, match="does not hold 2 of the 9 samples"):
        _reopened(saved, tmp_path)


def test_a_file_that_is_missing_short_or_in_use_is_refused(tmp_path: Path) -> None:
    memory = _memory(_disk(9, tmp_path))
    memory.add(_batch(0, 9))
    saved = copied(memory.state_dict())
    with pytest.raises(OperatorError, match="is open in another process"):
        _reopened(saved, tmp_path)
    _room(memory).close()
    with pytest.raises(OperatorError, match=r"cannot be opened: No such file.*memory\.directory"):
        _reopened(saved, tmp_path / "elsewhere")
    [rows] = tmp_path.glob("*.rows")
    os.truncate(rows, 0)
    with pytest.raises(OperatorError, match="does not hold 9 of the 9 samples"):
        _reopened(saved, tmp_path)


def test_a_run_that_starts_anew_leaves_the_file_of_the_former_alone(tmp_path: Path) -> None:
    first = _memory(_disk(9, tmp_path))
    first.add(_batch(0, 9))
    saved = copied(first.state_dict())
    _room(first).close()
    second = _memory(_disk(9, tmp_path))
    second.add(_batch(100, 9))
    assert _reopened(saved, tmp_path).read(np.arange(9)).fields["y"].max() < 9


def test_going_back_to_the_start_begins_a_new_file(tmp_path: Path) -> None:
    fresh, memory = copied(_memory(_disk(9, tmp_path)).state_dict()), _memory(_disk(9, tmp_path))
    memory.add(_batch(0, 9))
    memory.load_state_dict(fresh)
    assert memory.sample(1) is None
    memory.add(_batch(50, 4))
    assert memory.read(np.arange(4)).fields["y"].tolist() == [50, 51, 52, 53]


def test_the_file_stops_growing_once_places_come_back(tmp_path: Path) -> None:
    room = DiskRoom(100, _CPU, tmp_path, quarantine_checkpoints=2)
    memory, wide = _memory(room), torch.zeros(100, 200_000, dtype=torch.uint8)
    sizes = []
    for step in range(30):
        memory.add(Batch.of({"x": wide[:20] + step}))
        memory.state_dict()
        sizes.append(room.file_bytes)
    assert sizes[-1] == sizes[-8] <= 3 * 100 * 200_000
    taken = memory.read(np.arange(100)).fields["x"]
    assert torch.equal(taken.amin(1), taken.amax(1))  # no row is made of two


def test_a_disk_that_is_full_is_told(tmp_path: Path) -> None:
    def child() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
        memory = _memory(DiskRoom(100, _CPU, tmp_path))
        with pytest.raises(OperatorError, match=r"cannot grow to .* bytes: File too large"):
            memory.add(Batch.of({"x": torch.zeros(50, 10_000)}))

    _in_a_child(child)


def _in_a_child(work: Callable[[], None]) -> None:
    """Run it in a forked process, whose end it may be."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            torch.set_num_threads(1)  # the threads of the parent are not in its child
            work()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# Quarantine


@given(st.lists(st.tuples(st.sampled_from(["replace", "save"]), st.integers(0, 4)), max_size=60))
def test_no_place_that_one_of_the_newest_states_names_is_written_to(
    actions: list[tuple[str, int]],
) -> None:
    places, table, kept = Places(3), list[int](), list[list[int]]()
    places.grow(5)
    table = places.take(5).tolist()
    for action, slot in actions:
        if action == "save":
            places.named_by_a_state()
            kept = [*kept, list(table)][-3:]
            continue
        if places.available() == 0:
            places.grow(1)
        place = int(places.take(1)[0])
        assert all(place not in state for state in kept)
        assert place not in table
        places.free(np.array([table[slot]]))
        table[slot] = place


def test_quarantine_goes_by_the_checkpoints_that_were_really_written() -> None:
    places, written = Places(1), [0]
    places.count_checkpoints_by(lambda: written[0])
    places.grow(1)
    taken = places.take(1)
    places.named_by_a_state()
    places.free(taken)
    places.named_by_a_state()
    assert places.available() == 0  # no state came to the disk
    saved = places.state_dict()
    written[0] = 1
    assert places.available() == 1
    again = Places(1)
    again.load_state_dict(saved, 1, np.zeros(0, np.int64))
    assert again.available() == 0
    again.named_by_a_state()
    assert again.available() == 1


# A run with a checkpoint directory, killed


def _run(directory: Path, steps: range, *, resume: bool, die_at: int | None = None) -> Trainer:
    """Trains with replay from disk and keeps two checkpoints; may be killed in the middle."""
    room = DiskRoom(40, _CPU, directory / "memory", quarantine_checkpoints=4)
    replay = ExperienceReplay(_memory(room, seed=3), samples_per_step=6)
    trainer = Setup(further=lambda model: [replay]).trainer()
    buffers = SnapshotBuffers()
    if resume:
        found = newest_good(directory / "checkpoints")
        assert found is not None
        trainer.load_state_dict(found.state)
    for step in range(trainer.steps, steps.stop):
        if step == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        trainer.step(make_batch("classify", 7, seed=step))
        if trainer.steps % 5 == 0:
            snapshot = buffers.capture(trainer.state_dict())
            assert snapshot is not None
            write_checkpoint(directory / "checkpoints", snapshot, trainer.steps)
            snapshot.release()
            prune(directory / "checkpoints", 2)
    return trainer


def _run_to_its_death(directory: Path, resume: bool, die_at: int) -> None:
    _run(directory, range(60), resume=resume, die_at=die_at)


def test_a_run_that_is_killed_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    straight = _run(tmp_path / "straight", range(60), resume=False)
    for number, die_at in enumerate((23, 24, 48)):
        # a new process, not a fork: the threads of this one's torch would not be in it
        child = multiprocessing.get_context("spawn").Process(
            target=_run_to_its_death, args=(tmp_path / "killed", number > 0, die_at)
        )
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL
    resumed = _run(tmp_path / "killed", range(60), resume=True)
    one, other = copied(straight.state_dict()), copied(resumed.state_dict())
    for state in (one, other):
        file = state["strategies"]["replay"]["memory"]["samples"].pop("file")
        assert len(file["places"]) == 40
    assert_same(one, other)
    memories = [trainer.strategies["replay"].memory for trainer in (straight, resumed)]  # type: ignore[attr-defined]
    rows = [memory.read(np.arange(40)) for memory in memories]
    assert_same(dict(rows[0].fields), dict(rows[1].fields))


def test_a_memory_may_be_larger_than_what_the_process_may_have(tmp_path: Path) -> None:
    def child() -> None:
        with open("/proc/self/status") as status:
            kilobytes = next(int(line.split()[1]) for line in status if line.startswith("VmData"))
        limit = (kilobytes + 48 * 1024) * 1024
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        on_disk, in_memory = _memory(DiskRoom(1000, _CPU, tmp_path)), _memory(_host(1000, tmp_path))
        for step in range(100):
            on_disk.add(Batch.of({"x": torch.full((10, 128 * 1024), step, dtype=torch.uint8)}))
        assert _room(on_disk).file_bytes > 120 * 2**20
        drawn = on_disk.sample(20)
        assert drawn is not None
        assert torch.equal(drawn.fields["x"].amin(1), drawn.fields["x"].amax(1))
        with pytest.raises(OperatorError, match="placement host or disk"):
            in_memory.add(Batch.of({"x": torch.zeros(10, 128 * 1024, dtype=torch.uint8)}))

    _in_a_child(child)
