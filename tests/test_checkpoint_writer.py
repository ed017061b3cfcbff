"""The writer's thread: order, retention, parents, and disks that fail."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from insitu.checkpoint import (
    CheckpointFailed,
    Snapshot,
    SnapshotBuffers,
    list_checkpoints,
    newest_good,
    verify_checkpoint,
)
from insitu.errors import OperatorError
from insitu_service.recording.checkpoint_writer import CheckpointCounters, CheckpointWriter

TIMEOUT_SECONDS = 30.0


class Told:
    """What the writer told its listeners."""

    def __init__(self) -> None:
        self.done: list[tuple[str, int, int]] = []
        self.errors: list[tuple[int, Exception]] = []

    def on_done(self, path: Path, step: int, counters: CheckpointCounters) -> None:
        self.done.append((path.name, step, counters.written))

    def on_error(self, step: int, error: Exception) -> None:
        self.errors.append((step, error))


def captured(buffers: SnapshotBuffers, step: int) -> Snapshot:
    snapshot = buffers.capture({"step": step, "w": torch.zeros(10)}, TIMEOUT_SECONDS)
    assert snapshot is not None
    return snapshot


def test_snapshots_are_written_in_order_with_parents_and_retention(tmp_path: Path) -> None:
    buffers, told = SnapshotBuffers(), Told()
    writer = CheckpointWriter(
        tmp_path, 2, told.on_done, told.on_error, parent="checkpoint-old", config_fingerprint="f"
    )
    assert writer.counters == CheckpointCounters()
    futures = [writer.save(captured(buffers, step), step, {"n": step}) for step in range(1, 6)]
    paths = [future.result(TIMEOUT_SECONDS) for future in futures]
    assert writer.close(TIMEOUT_SECONDS)
    assert list_checkpoints(tmp_path) == paths[-2:]
    manifest = verify_checkpoint(paths[-1])
    assert (manifest.parent, manifest.info, manifest.config_fingerprint) == (
        paths[-2].name, {"n": 5}, "f",
    )  # fmt: skip
    assert told.done == [(path.name, i, i) for i, path in enumerate(paths, 1)]
    assert told.errors == []
    counters = writer.counters
    assert (counters.written, counters.failures, counters.last_size_bytes) == (5, 0, 40)
    assert counters.last_duration_seconds > 0
    assert counters.last_success_timestamp_seconds > 1.7e9


def test_the_first_parent_is_the_checkpoint_resumed_from(tmp_path: Path) -> None:
    told, buffers = Told(), SnapshotBuffers()
    writer = CheckpointWriter(tmp_path, 9, told.on_done, told.on_error, parent="checkpoint-old")

    def parent(step: int, parent: str | None = None) -> str | None:
        future = writer.save(captured(buffers, step), step, parent=parent)
        path = future.result(TIMEOUT_SECONDS)
        return verify_checkpoint(path).parent

    assert parent(10) == "checkpoint-old"
    assert parent(20) == "checkpoint-000000000010"
    assert parent(20) == "checkpoint-000000000010"  # takes the place of the other
    assert parent(30, parent="checkpoint-000000000010") == "checkpoint-000000000010"
    assert parent(40) == "checkpoint-000000000030"
    assert writer.close(TIMEOUT_SECONDS)


def test_a_failing_disk_costs_checkpoints_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root, buffers, told = tmp_path / "root", SnapshotBuffers(arenas=1), Told()
    writer = CheckpointWriter(root, 2, told.on_done, told.on_error)
    good = writer.save(captured(buffers, 1), 1).result(TIMEOUT_SECONDS)
    root.rename(tmp_path / "away")
    root.write_text("a file where the directory was")
    failed = writer.save(captured(buffers, 2), 2)
    assert isinstance(failed.exception(TIMEOUT_SECONDS), CheckpointFailed)
    root.unlink()
    (tmp_path / "away").rename(root)
    again = writer.save(captured(buffers, 3), 3).result(TIMEOUT_SECONDS)
    assert writer.close(TIMEOUT_SECONDS)
    assert list_checkpoints(root) == [good, again]
    assert verify_checkpoint(again).parent == good.name
    assert (writer.counters.written, writer.counters.failures) == (2, 1)
    assert [step for step, _ in told.errors] == [2]
    assert caplog.text.count("checkpoint of step 2 failed") == 1


def test_a_directory_that_cannot_even_be_listed_does_not_end_the_writer(tmp_path: Path) -> None:
    buffers, told = SnapshotBuffers(), Told()
    root = tmp_path / "link"
    root.symlink_to("x" * 300)  # every look at it is an error, as with a dead network disk
    root.rename(tmp_path / "later")
    writer = CheckpointWriter(root, 2, told.on_done, told.on_error)
    (tmp_path / "later").rename(root)
    for step in (1, 2):
        with pytest.raises(CheckpointFailed):
            writer.save(captured(buffers, step), step).result(TIMEOUT_SECONDS)
    root.unlink()
    assert writer.save(captured(buffers, 3), 3).result(TIMEOUT_SECONDS).is_dir()
    assert writer.close(TIMEOUT_SECONDS)
    assert [step for step, _ in told.errors] == [1, 2]
    assert writer.counters.failures == 2


def test_a_listener_that_raises_does_not_end_the_writer(tmp_path: Path) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("listener")

    buffers = SnapshotBuffers()
    writer = CheckpointWriter(tmp_path, 2, broken, broken)
    for step in (1, 2):
        writer.save(captured(buffers, step), step).result(TIMEOUT_SECONDS)
    assert writer.close(TIMEOUT_SECONDS)
    assert writer.counters.written == 2


def test_close_writes_what_waits_and_then_refuses(tmp_path: Path) -> None:
    entered, go = threading.Event(), threading.Event()

    def hold(path: Path, step: int, counters: CheckpointCounters) -> None:
        entered.set()
        assert go.wait(TIMEOUT_SECONDS)

    buffers = SnapshotBuffers(arenas=2)
    writer = CheckpointWriter(tmp_path, 5, hold, Told().on_error)
    writer.save(captured(buffers, 1), 1)
    assert entered.wait(TIMEOUT_SECONDS)
    writer.save(captured(buffers, 2), 2)
    assert not writer.close(timeout_seconds=0.01)
    go.set()
    assert writer.close(TIMEOUT_SECONDS)
    found = newest_good(tmp_path)
    assert found is not None
    assert found.manifest.step == 2
    late = captured(buffers, 3)
    with pytest.raises(OperatorError, match="closed"):
        writer.save(late, 3)
    assert captured(buffers, 4) is not None  # the refused snapshot gave its memory back


def test_leftovers_of_a_crash_are_cleared_at_the_start(tmp_path: Path) -> None:
    leftover = tmp_path / ".checkpoint-000000000009.partial"
    leftover.mkdir()
    (leftover / "tensors.safetensors").write_bytes(b"half")
    writer = CheckpointWriter(tmp_path, 1, Told().on_done, Told().on_error)
    assert not leftover.exists()
    assert writer.close(TIMEOUT_SECONDS)
