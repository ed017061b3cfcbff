"""States round-trip through snapshot and disk; what cannot is refused by its path."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from insitu.checkpoint import (
    Manifest,
    SnapshotBuffers,
    list_checkpoints,
    newest_good,
    prune,
    read_checkpoint,
    remove_leftovers,
    verify_checkpoint,
    write_checkpoint,
)
from insitu.checkpoint.layout import DTYPE_NAMES, Layout
from insitu.checkpoint.tree import flatten, unflatten
from insitu.errors import InternalError, OperatorError

DTYPES = [*DTYPE_NAMES, torch.complex64, torch.complex128]


def same(a: Any, b: Any) -> bool:
    """Equal in type, order and bits."""
    if isinstance(a, torch.Tensor):
        return (
            isinstance(b, torch.Tensor)
            and a.dtype == b.dtype
            and a.shape == b.shape
            and bits(a) == bits(b)
        )
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or (
            a == b and math.copysign(1, a) == math.copysign(1, b)
        )
    if isinstance(a, dict):
        return [(type(k), k) for k in a] == [(type(k), k) for k in b] and all(
            same(a[key], b[key]) for key in a
        )
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def bits(tensor: torch.Tensor) -> bytes:
    dense = tensor.detach().resolve_conj().clone(memory_format=torch.contiguous_format).reshape(-1)
    return dense.view(torch.uint8).numpy().tobytes()


def saved(root: Path, state: Any, step: int = 1, **kwargs: Any) -> Path:
    snapshot = SnapshotBuffers().capture(state)
    assert snapshot is not None
    return write_checkpoint(root, snapshot, step, **kwargs)


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    dtype = draw(st.sampled_from(DTYPES))
    size = math.prod(shape) * dtype.itemsize
    raw = bytearray(draw(st.binary(min_size=size, max_size=size)))
    if dtype == torch.bool:
        raw = bytearray(byte & 1 for byte in raw)
    if not raw:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(raw, dtype=dtype).view(shape)


KEYS = st.one_of(
    st.text(max_size=6),
    st.integers(),
    st.sampled_from(["$tensor", "$tuple", "$dict", "a/b", "__metadata__", "\ud800", "'", "1"]),
)
STATES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | tensors(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=4)
    ),
    max_leaves=12,
)


@given(state=STATES)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_nested_state_round_trips_through_the_disk(tmp_path: Path, state: Any) -> None:
    path = saved(tmp_path, state)
    restored, manifest = read_checkpoint(path)
    assert same(state, restored)
    assert manifest.step == 1


@given(state=STATES)
@settings(max_examples=100, deadline=None)
def test_flatten_and_unflatten_are_inverse(state: Any) -> None:
    tree, flat = flatten(state)
    assert same(state, unflatten(tree, flat))


@given(flat=st.dictionaries(st.text(max_size=4), tensors(), max_size=8))
def test_layout_has_no_holes_and_aligns_everything(flat: dict[str, torch.Tensor]) -> None:
    flat = {k: torch.view_as_real(t) if t.is_complex() else t for k, t in flat.items()}
    layout = Layout.of(flat)
    assert len(layout.header) % 64 == 0
    end = 0
    for place in layout.places:
        assert place.begin == end
        assert place.begin % place.dtype.itemsize == 0
        end = place.end
    assert end == layout.size_bytes == sum(t.nbytes for t in flat.values())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    raw = torch.randint(0, 2, (24 * dtype.itemsize,), dtype=torch.uint8)
    values = raw.view(dtype).view(2, 3, 4)
    state = {"dense": values, "strided": values[:, ::2, 1::2], "scalar": values[0, 0, 0],
             "empty": values[:0], "transposed": values.mT,
             "one of stride 0": values[:1, 0, 0].as_strided((1,), (0,))}  # fmt: skip
    restored, _ = read_checkpoint(saved(tmp_path, state))
    assert same(state, restored)


def test_views_conjugates_parameters_and_shared_storage_become_tensors_of_their_own(
    tmp_path: Path,
) -> None:
    base = torch.arange(6.0)
    z = torch.tensor([1 + 2j, 3 - 1j])
    state = {
        "a": base, "b": base[2:5], "tied": base, "parameter": torch.nn.Parameter(base),
        "expanded": base[:1].expand(4), "conjugate": z.conj(), "negative": z.conj().imag,
    }  # fmt: skip
    restored, _ = read_checkpoint(saved(tmp_path, state))
    assert restored["b"].tolist() == [2, 3, 4]
    assert restored["expanded"].tolist() == [0, 0, 0, 0]
    assert restored["conjugate"].tolist() == [1 - 2j, 3 + 1j]
    assert restored["negative"].tolist() == [-2, 1]
    assert type(restored["parameter"]) is torch.Tensor
    assert not restored["parameter"].requires_grad
    restored["a"].zero_()
    assert restored["tied"].tolist() == restored["parameter"].tolist() == base.tolist()
    storages = {t.untyped_storage().data_ptr() for t in restored.values()}
    assert len(storages) == len(restored)


def test_optimizer_generators_and_schedules_resume_exactly(tmp_path: Path) -> None:
    def make() -> tuple[torch.nn.Module, torch.optim.Optimizer, Any, torch.Generator, Any]:
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 2)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
        return model, optimizer, schedule, torch.Generator(), np.random.default_rng(3)

    def step(parts: Any) -> list[float]:
        model, optimizer, schedule, generator, rng = parts
        x = torch.randn(8, 4, generator=generator) + float(rng.normal())
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
        schedule.step()
        return [p.sum().item() for p in model.parameters()]

    parts = make()
    step(parts)
    model, optimizer, schedule, generator, rng = parts
    path = saved(tmp_path, {
        "model": model.state_dict(), "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(), "generator": generator.get_state(),
        "numpy": rng.bit_generator.state,
    })  # fmt: skip
    expected = [step(parts) for _ in range(3)]
    state, _ = read_checkpoint(path)
    again = make()
    model, optimizer, schedule, generator, rng = again
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    generator.set_state(state["generator"])
    rng.bit_generator.state = state["numpy"]
    assert [step(again) for _ in range(3)] == expected


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"memory": {"rows": np.zeros(2)}}, ["numpy.ndarray", "'memory/rows'"]),
        ({"a": [1, {2}]}, ["builtins.set", "'a/1'"]),
        ({"a": {True: 1}}, ["key True", "'a'"]),
        ({"a": {1.5: 1}}, ["key 1.5", "'a'"]),
        ({"a": b"bytes"}, ["builtins.bytes", "'a'"]),
        ({"a": torch.eye(2).to_sparse()}, ["sparse", "'a'"]),
        ({"a": torch.empty(2, device="meta")}, ["meta", "'a'"]),
        ({"a": torch.zeros(2).to(torch.float16).view(torch.complex32)}, ["complex32", "'a'"]),
        ({"a": 1 << 20_000}, ["20001 bits", "'a'"]),
        (object(), ["builtins.object", "its root"]),
    ],
)
def test_anything_else_is_refused_by_its_path(state: Any, words: list[str]) -> None:
    buffers = SnapshotBuffers(arenas=1)
    with pytest.raises(OperatorError) as caught:
        buffers.capture(state)
    for word in words:
        assert word in str(caught.value)
    assert buffers.capture({}) is not None  # the arena came back


def test_a_state_that_contains_itself_is_refused() -> None:
    state: dict[str, Any] = {}
    state["self"] = state
    with pytest.raises(OperatorError, match="contain itself"):
        SnapshotBuffers().capture(state)


def test_a_snapshot_does_not_change_when_the_state_does(tmp_path: Path) -> None:
    state: dict[str, Any] = {"w": torch.ones(3), "steps": [1]}
    snapshot = SnapshotBuffers().capture(state)
    assert snapshot is not None
    state["w"].zero_()
    state["steps"].append(2)
    restored, _ = read_checkpoint(write_checkpoint(tmp_path, snapshot, 1))
    assert same(restored, {"w": torch.ones(3), "steps": [1]})


def test_two_snapshots_live_side_by_side_and_a_third_is_refused_until_one_is_released() -> None:
    buffers = SnapshotBuffers(arenas=2)
    first = buffers.capture({"w": torch.tensor([1.0])})
    second = buffers.capture({"w": torch.tensor([2.0])})
    assert first is not None
    assert second is not None
    assert buffers.capture({"w": torch.tensor([3.0])}) is None
    assert buffers.capture({"w": torch.tensor([3.0])}, timeout_seconds=0.01) is None
    assert np.frombuffer(first.data(), "<f4").tolist() == [1.0]
    first.release()
    first.release()
    third = buffers.capture({"w": torch.tensor([3.0])})
    assert third is not None
    assert buffers.capture({}) is None  # a second release did not free a second arena
    assert np.frombuffer(second.data(), "<f4").tolist() == [2.0]
    with pytest.raises(InternalError):
        first.data()


def test_captures_reuse_the_memory_and_grow_only_with_the_state(tmp_path: Path) -> None:
    buffers = SnapshotBuffers(arenas=1)
    buffers.warm({"w": torch.zeros(1000)})
    addresses = set()
    for size in (1000, 10, 1000, 0, 999):
        state = {"w": torch.arange(float(size))}
        snapshot = buffers.capture(state)
        assert snapshot is not None
        assert snapshot.size_bytes == len(snapshot.data()) == 4 * size
        assert same(read_checkpoint(write_checkpoint(tmp_path, snapshot, 1))[0], state)
        if size:
            addresses.add(np.frombuffer(snapshot.data(), "u1").ctypes.data)
        snapshot.release()
    assert len(addresses) == 1
    snapshot = buffers.capture({"w": torch.zeros(5000)})
    assert snapshot is not None
    assert snapshot.size_bytes == 20_000


def test_the_tensor_file_is_plain_safetensors(tmp_path: Path) -> None:
    state: dict[str, Any] = {"model": {"w": torch.randn(3, 2), "b": torch.tensor(True)}, "n": 3}
    tensors = load_file(saved(tmp_path, state) / "tensors.safetensors")
    assert torch.equal(tensors["model/w"], state["model"]["w"])
    assert torch.equal(tensors["model/b"], state["model"]["b"])


def test_the_manifest_tells_where_a_checkpoint_comes_from(tmp_path: Path) -> None:
    info = {"cursor": 2**70, "positions": {3: (1, float("inf"))}}
    first = saved(tmp_path, {}, 100, info=info, config_fingerprint="abc")
    second = saved(tmp_path, {}, 200, parent=first.name)
    manifest = verify_checkpoint(first)
    assert isinstance(manifest, Manifest)
    assert (manifest.parent, manifest.config_fingerprint) == (None, "abc")
    assert manifest.info == info
    assert manifest.torch_version == torch.__version__
    assert verify_checkpoint(second).parent == "checkpoint-000000000100"
    with pytest.raises(OperatorError, match="info"):
        saved(tmp_path, {}, 300, info={"w": torch.zeros(1)})
    assert [path.name for path in tmp_path.iterdir()].count("checkpoint-000000000300") == 0


def test_checkpoints_sort_by_step_also_past_twelve_digits(tmp_path: Path) -> None:
    assert list_checkpoints(tmp_path / "nowhere") == []
    assert newest_good(tmp_path / "nowhere") is None
    steps = [10**12, 5, 999_999_999_999, 40]
    for step in steps:
        saved(tmp_path, {"step": step}, step)
    (tmp_path / "notes").mkdir()
    assert [int(p.name.split("-")[1]) for p in list_checkpoints(tmp_path)] == sorted(steps)
    found = newest_good(tmp_path)
    assert found is not None
    assert found.state == {"step": 10**12}


def test_retention_keeps_the_newest_and_every_nth(tmp_path: Path) -> None:
    for step in range(100, 1100, 100):
        saved(tmp_path, {}, step)
    removed = prune(tmp_path, keep=3, keep_every=500)
    assert len(removed) == 6
    kept = [int(p.name.split("-")[1]) for p in list_checkpoints(tmp_path)]
    assert kept == [500, 800, 900, 1000]
    assert prune(tmp_path, keep=3, keep_every=500) == []
    with pytest.raises(OperatorError, match="keep is 0"):
        prune(tmp_path, keep=0)


def test_retention_never_removes_the_newest_good_one(tmp_path: Path) -> None:
    paths = [saved(tmp_path, {"w": torch.ones(2)}, step) for step in range(1, 6)]
    for path in paths[2:]:
        (path / "tensors.safetensors").write_bytes(b"")
    prune(tmp_path, keep=2)
    assert list_checkpoints(tmp_path) == [paths[1], *paths[3:]]
    found = newest_good(tmp_path)
    assert found is not None
    assert found.path == paths[1]
    (paths[1] / "manifest.json").unlink()
    assert prune(tmp_path, keep=1) == []  # nothing good is left, so nothing is removed


def test_the_same_step_again_replaces_and_a_crash_in_between_is_mended(tmp_path: Path) -> None:
    saved(tmp_path, {"n": 1}, 7)
    path = saved(tmp_path, {"n": 2}, 7)
    assert read_checkpoint(path)[0] == {"n": 2}
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    path.rename(tmp_path / f".{path.name}.replaced")  # as if killed between the two renames
    (tmp_path / f".{path.name}.partial").mkdir()
    assert len(remove_leftovers(tmp_path)) == 2
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert read_checkpoint(path)[0] == {"n": 2}


def test_the_reader_unpickles_nothing(tmp_path: Path) -> None:
    path = saved(tmp_path, {"w": torch.ones(2), "t": (1, {2: None})})
    script = """
import pickle, sys
from pathlib import Path
import torch, insitu.checkpoint as checkpoint
def refuse(*args, **kwargs): raise SystemExit("something was unpickled")
pickle.load = pickle.loads = pickle.Unpickler = pickle._Unpickler = refuse
torch.load = torch.serialization.load = refuse
sys.addaudithook(lambda event, args: refuse() if event == "pickle.find_class" else None)
state, _ = checkpoint.read_checkpoint(Path(sys.argv[1]))
assert state["w"].tolist() == [1, 1] and state["t"] == (1, {2: None})
"""
    subprocess.run([sys.executable, "-c", script, str(path)], check=True, timeout=60)
