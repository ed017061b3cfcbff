"""A memory on disk through kill -9: what is resumed is what the checkpoint knew, real processes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from daemon import Daemon
from insitu.batch import Batch, Column
from insitu.checkpoint import list_checkpoints, read_checkpoint
from insitu.memory.disk_room import DiskRoom
from insitu.memory.reservoir import Reservoir
from insitu.memory.store import SampleStore
from served import arrays, books_balance, config, producer, push

_CAPACITY, _CPU = 40, torch.device("cpu")


def on_disk(directory: Path) -> dict[str, Any]:
    """A service that replays from a file."""
    memory = {
        "name": "reservoir",
        "capacity_samples": _CAPACITY,
        "placement": "disk",
        "directory": str(directory / "memory"),
    }
    strategies = [{"name": "replay", "options": {"samples_per_step": 8}, "memory": memory}]
    return config(directory, strategies=strategies, checkpoint={"keep": 2})


def remembered(daemon: Daemon, checkpoint: Path) -> Batch:
    """What a checkpoint remembers, read from a copy of the file as it lies there now."""
    state = read_checkpoint(checkpoint)[0]["trainer"]["strategies"]["replay"]["memory"]
    copied = daemon.directory / f"copy of the file at {checkpoint.name}"
    shutil.rmtree(copied, ignore_errors=True)
    (made,) = (daemon.directory / "memory").iterdir()
    shutil.copytree(made, copied)
    room = DiskRoom(_CAPACITY, _CPU, copied)
    memory = Reservoir(_CAPACITY, _CPU, torch.Generator())
    memory.keep_in(SampleStore(_CAPACITY, _CPU, room=room))
    memory.load_state_dict(state)
    found = memory.read(np.arange(len(memory)))
    room.close()
    return found


def rows_of(batch: Batch) -> list[int]:
    """The numbers of the rows, after checking that every one is as it was pushed."""
    rows: list[int] = batch.column(Column.ROW).tolist()
    for index, row in enumerate(rows):
        for name, value in arrays(row, row + 1).items():
            np.testing.assert_array_equal(batch.fields[name][index].numpy(), value[0])
    return rows


def train_until(daemon: Daemon, source: Any, start: int, stop: int) -> None:
    push(source, start, stop)
    source.flush(60)
    daemon.wait_metric("insitu_trained_samples_total", stop, source="fresh")


def newest(daemon: Daemon) -> Path:
    return list_checkpoints(daemon.directory / "checkpoints")[-1]


def test_a_memory_on_disk_is_that_of_the_checkpoint_after_kill_9(tmp_path: Path) -> None:
    with Daemon(tmp_path, on_disk(tmp_path)) as daemon:
        daemon.start()
        source = producer(daemon, linger_seconds=60)
        train_until(daemon, source, 0, 160)
        assert daemon.post("checkpoint")[0] == 200
        saved = newest(daemon)
        before = rows_of(remembered(daemon, saved))
        assert len(before) == _CAPACITY

        # nine tenths of the memory are replaced, many of them twice
        train_until(daemon, source, 160, 1600)
        daemon.kill()
        assert rows_of(remembered(daemon, saved)) == before, "the file was written over"

        daemon.start("--resume")
        assert daemon.status()["service"]["resumed_from"] == saved.name
        assert daemon.post("checkpoint")[0] == 200
        assert rows_of(remembered(daemon, newest(daemon))) == before
        assert daemon.status()["memory"]["samples"] == _CAPACITY

        # and learning goes on from it: what was trained since was lost with the process
        push(source, 1600, 2000)
        source.flush(60)
        daemon.wait_metric("insitu_trained_samples_total", 400, source="fresh")
        assert daemon.metric("insitu_lost_samples_total") == 1440
        assert books_balance(daemon)
        source.close()
        assert daemon.stop() == 0
        after = rows_of(remembered(daemon, newest(daemon)))
        assert len(after) == _CAPACITY
        assert set(after) & set(before), "what was remembered before the kill is still there"
        assert set(after) & set(range(1600, 2000))
        assert not set(after) & set(range(160, 1600))
