"""Power cuts, full disks and flipped bits: the newest good checkpoint is always found."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from insitu.checkpoint import (
    CheckpointDamaged,
    CheckpointFailed,
    NoGoodCheckpoint,
    SnapshotBuffers,
    list_checkpoints,
    newest_good,
    read_checkpoint,
    remove_leftovers,
    write_checkpoint,
)
from insitu.errors import OperatorError

FILES = ["tensors.safetensors", "manifest.json"]


def state_of(step: int) -> dict[str, object]:
    return {"w": torch.full((100,), float(step)), "step": step, "nan": float("nan")}


def saved(root: Path, *steps: int) -> list[Path]:
    buffers = SnapshotBuffers(arenas=1)
    paths = []
    for step in steps:
        snapshot = buffers.capture(state_of(step))
        assert snapshot is not None
        paths.append(write_checkpoint(root, snapshot, step))
        snapshot.release()
    return paths


def expect_fallback(root: Path, damaged_file: str, what: str) -> None:
    found = newest_good(root)
    assert found is not None
    assert found.manifest.step == 1
    assert torch.equal(found.state["w"], torch.full((100,), 1.0))
    (error,) = found.damaged
    assert error.path == root / "checkpoint-000000000002" / damaged_file
    assert what in str(error)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_found_and_the_one_before_is_used(tmp_path: Path, name: str) -> None:
    (saved(tmp_path, 1, 2)[1] / name).unlink()
    expect_fallback(tmp_path, name, "No such file")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("cut", ["all", "half", "one byte"])
def test_a_file_cut_short_is_found(tmp_path: Path, name: str, cut: str) -> None:
    file = saved(tmp_path, 1, 2)[1] / name
    size = file.stat().st_size
    # the manifest ends with a newline, which nobody misses
    os.truncate(file, {"all": 0, "half": size // 2, "one byte": size - 2}[cut])
    expect_fallback(tmp_path, name, "is not JSON" if name == "manifest.json" else "were written")


def test_bytes_appended_are_found(tmp_path: Path) -> None:
    file = saved(tmp_path, 1, 2)[1] / "tensors.safetensors"
    with file.open("ab") as stream:
        stream.write(b"x")
    expect_fallback(tmp_path, file.name, "were written")


@given(data=st.data())
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_flipped_bit_is_found_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    (path,) = list_checkpoints(tmp_path) or saved(tmp_path, 1)
    file = path / data.draw(st.sampled_from(FILES))
    intact = file.read_bytes()
    bit = data.draw(st.integers(0, 8 * len(intact) - 1))
    altered = bytearray(intact)
    altered[bit // 8] ^= 1 << bit % 8
    file.write_bytes(altered)
    try:
        state, manifest = read_checkpoint(path)
    except CheckpointDamaged as error:
        accused = error.path
    else:  # such as a space of the manifest that became another blank
        assert file.name == "manifest.json"
        assert manifest.step == state["step"] == 1
        assert torch.equal(state["w"], torch.full((100,), 1.0))
        accused = file
    finally:
        file.write_bytes(intact)
    assert accused == file


def test_all_damaged_is_an_error_that_names_them(tmp_path: Path) -> None:
    for path in saved(tmp_path, 1, 2):
        (path / "manifest.json").write_text("[]")
    with pytest.raises(NoGoodCheckpoint, match=r"all 2 checkpoints.*0002.*0001"):
        newest_good(tmp_path)


def test_a_newer_format_is_refused_rather_than_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path, 1)[0]
    with monkeypatch.context() as newer:
        newer.setattr("insitu.checkpoint.manifest.FORMAT_VERSION", 2)
        saved(tmp_path, 2)
    with pytest.raises(OperatorError, match="format version 2") as caught:
        newest_good(tmp_path)
    assert not isinstance(caught.value, CheckpointDamaged)
    assert read_checkpoint(path)[1].step == 1


WRITER = """
import sys, torch
from pathlib import Path
from insitu.checkpoint import SnapshotBuffers, write_checkpoint
buffers, state = SnapshotBuffers(arenas=1), {"w": torch.zeros(2_000_000)}
for step in range(1, 10_000):
    state["w"].fill_(step)
    snapshot = buffers.capture(state)
    write_checkpoint(Path(sys.argv[1]), snapshot, step)
    snapshot.release()
    print(step, flush=True)
"""


def test_kill_in_the_middle_of_writing_leaves_a_good_newest(tmp_path: Path) -> None:
    leftovers = 0
    for attempt in range(3):
        root = tmp_path / str(attempt)
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(root)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        deadline = time.monotonic() + 30
        while not list(root.glob(".*.partial/tensors.safetensors")):
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGKILL)
        told = [1, *map(int, process.stdout.read().split())]
        process.wait()
        process.stdout.close()
        found = newest_good(root)
        assert found is not None
        assert found.damaged == []
        assert found.manifest.step >= told[-1]
        assert torch.equal(found.state["w"], torch.full((2_000_000,), float(found.manifest.step)))
        leftovers += len(remove_leftovers(root))
        assert list(root.glob(".*")) == []
    assert leftovers > 0  # at least once the kill came in the middle


FULL_DISK = """
import resource, signal, sys, torch
from pathlib import Path
from insitu.checkpoint import CheckpointFailed, SnapshotBuffers, write_checkpoint
root, buffers = Path(sys.argv[1]), SnapshotBuffers(arenas=1)
def save(step, size):
    snapshot = buffers.capture({"w": torch.full((size,), float(step))})
    try:
        write_checkpoint(root, snapshot, step)
    finally:
        snapshot.release()
save(1, 10)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save(2, 1_000_000)
except CheckpointFailed as error:
    print(error)
save(3, 10)
"""


def test_a_file_that_cannot_grow_fails_alone_and_leaves_nothing(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "File too large" in run.stdout
    assert "operator's fault" in run.stdout
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["checkpoint-000000000001", "checkpoint-000000000003"]


def test_a_root_that_is_a_file_is_the_operators_fault(tmp_path: Path) -> None:
    (tmp_path / "root").write_text("")
    with pytest.raises(CheckpointFailed, match="cannot be written"):
        saved(tmp_path / "root", 1)


def rewritten(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a manifest, and its hash with it: whole, and not what an insitu writes."""
    content = json.loads((path / "manifest.json").read_bytes())
    change(content)
    content.pop("manifest_xxh3_128")
    plain = json.dumps(content, separators=(",", ":")).encode()
    content["manifest_xxh3_128"] = xxhash.xxh3_128(plain).hexdigest()
    (path / "manifest.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.pop("state"),
        lambda content: content.update(surprise=1),
        lambda content: content.update(files=[1]),
        lambda content: content["files"].update({"../other": {"size_bytes": 1, "xxh3_128": ""}}),
        lambda content: content["files"]["tensors.safetensors"].update(more=1),
        lambda content: content.update(info={"$tensor": "w"}),
        lambda content: content.update(state={"$float": "much"}),
        lambda content: content.update(state={"$complex": "w"}),
        lambda content: content.update(state={"$dict": [1]}),
        lambda content: content.update(state={"$tensor": ["w"]}),
    ],
)
def test_a_manifest_that_no_insitu_wrote_is_damage(
    tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    (path,) = saved(tmp_path, 1)
    rewritten(path, change)
    with pytest.raises(CheckpointDamaged, match=r"does not say|cannot be read"):
        read_checkpoint(path)
