"""Probes from files: what is read, and what is refused and how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from insitu.batch import Batch, Column, SampleFlag
from insitu.errors import OperatorError
from insitu.evaluation import ProbeFile, ProbeSets, read_probe_file
from insitu.schema import Schema

SCHEMA = Schema.of({"x": ("float32", (2,)), "y": ("int64", ())})


def arrays(rows: int = 3, **changed: Any) -> dict[str, Any]:
    base = {"x": np.ones((rows, 2), np.float32), "y": np.arange(rows)}
    return {name: value for name, value in {**base, **changed}.items() if value is not None}


def test_rows_are_read_and_flagged_as_probes(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays(5))
    np.savez_compressed(tmp_path / "b.npz", **arrays(5))
    plain, packed = (read_probe_file(tmp_path / f"{name}.npz", SCHEMA) for name in "ab")
    for file in (plain, packed):
        assert file.batch.fields["y"].tolist() == [0, 1, 2, 3, 4]
        assert file.batch.fields["x"].dtype == torch.float32
        assert (file.batch.column(Column.FLAGS) == SampleFlag.EVALUATE).all()
    assert plain.digest != packed.digest
    assert plain.digest == read_probe_file(tmp_path / "a.npz", SCHEMA).digest


def test_bfloat16_comes_as_its_bits(tmp_path: Path) -> None:
    values = torch.tensor([1.5, -2.0], dtype=torch.bfloat16)
    np.savez(tmp_path / "a.npz", x=values.view(torch.uint16).numpy())
    file = read_probe_file(tmp_path / "a.npz", Schema.of({"x": ("bfloat16", ())}))
    assert torch.equal(file.batch.fields["x"], values)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"x": None}, "has the arrays ['y']"),
        ({"z": np.zeros(3)}, "has the arrays ['x', 'y', 'z']"),
        ({"x": np.ones((3, 2))}, "holds 'x' as float64"),
        ({"x": np.ones((3, 3), np.float32)}, "shape [3] per sample"),
        ({"x": np.ones((4, 2), np.float32)}, "rows"),
        ({"x": np.ones((0, 2), np.float32), "y": np.arange(0)}, "rows"),
        ({"y": np.int64(1)}, "rows"),
        ({"x": np.full((3, 2), np.nan, np.float32)}, "NaN or infinity"),
        ({"y": np.array([0, 1, 9])}, "up to 9"),
        ({"y": np.array([0, 1, -1])}, "down to -1"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, changed: dict[str, Any], told: str) -> None:
    path = tmp_path / "probes.npz"
    np.savez(path, **arrays(**changed))
    with pytest.raises(OperatorError) as caught:
        read_probe_file(path, SCHEMA, {"y": (0, 5), "x": (None, None)})
    assert str(path) in str(caught.value)
    assert told in str(caught.value)
    assert caught.value.allowed
    assert caught.value.remedy


class Bomb:
    """Ends the process when it is unpickled."""

    def __reduce__(self) -> Any:
        return exit, (99,)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"no archive at all"])
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(OperatorError, match="no archive of plain arrays"):
        read_probe_file(tmp_path / "a.npz", SCHEMA)


def test_nothing_is_unpickled_and_a_single_array_is_no_archive(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays(x=np.array([Bomb()] * 3, object)))
    np.save(tmp_path / "b.npy", np.zeros(3))
    (tmp_path / "b.npy").rename(tmp_path / "b.npz")
    for name in "ab":
        with pytest.raises(OperatorError, match="no archive of plain arrays"):
            read_probe_file(tmp_path / f"{name}.npz", SCHEMA)
    with pytest.raises(OperatorError, match="cannot be read"):
        read_probe_file(tmp_path / "nowhere.npz", SCHEMA)


def test_probes_of_a_task_can_be_dropped() -> None:
    probes = ProbeSets(10, torch.Generator().manual_seed(0))
    file = ProbeFile(Batch.of({"x": torch.zeros(3)}, task=2), "digest")
    probes.add(file.batch)
    probes.forget(2)
    assert probes.counts() == {}
