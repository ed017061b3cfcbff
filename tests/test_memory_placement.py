"""Where memories keep their samples, by the configuration; and what the service tells of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from insitu.batch import Batch
from insitu.config import Config, check_config
from insitu.errors import InsituError
from insitu_service.learning.building import build_trainer
from insitu_service.learning.memories import memories, memory_fill
from served import config

_CPU = torch.device("cpu")


def _config(place: Path, **memory: Any) -> Config:
    section = {"name": "reservoir", "capacity_samples": 20, **memory}
    return check_config(config(place, strategies=[{"name": "replay", "memory": section}]))  # type: ignore[arg-type]


@pytest.mark.parametrize("placement", ["device", "host", "disk"])
def test_a_trainer_replays_from_where_the_configuration_says(
    placement: str, tmp_path: Path
) -> None:
    where = {"directory": str(tmp_path / "there")} if placement == "disk" else {}
    trainer = build_trainer(_config(tmp_path, placement=placement, **where), _CPU)
    for _ in range(5):
        report = trainer.step(
            Batch.of({"x": torch.randn(8, 6), "y": torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])}, task=1)
        )
    assert report.replayed_samples == 20
    files = [path.suffix for path in (tmp_path / "there" / "strategies.0").glob("*")]
    assert sorted(files) == ([".rows", ".stamps"] if placement == "disk" else [])
    fill = memory_fill(trainer, ["first", "second"], ["rank-0"])
    assert fill is not None
    assert (fill["samples"], fill["capacity_samples"]) == (20, 20)
    assert (fill["by_task"], fill["by_producer"]) == ({"second": 20}, {"rank-0": 20})
    assert sum(fill["by_class"].values()) == 20
    assert set(fill["by_class"]) <= {"0", "1", "2"}
    assert list(fill["age_samples"]) == ["0.0", "0.25", "0.5", "0.75", "1.0"]
    assert len(memories(trainer)) == 1


@pytest.mark.parametrize("wrong", [{"placement": "disk"}, {"directory": "somewhere"}])
def test_disk_needs_a_directory_and_nothing_else_takes_one(
    wrong: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(InsituError, match="placement disk needs a directory"):
        _config(tmp_path, **wrong)


def test_a_directory_that_cannot_be_made_is_refused_at_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    wrong = _config(tmp_path, placement="disk", directory=str(tmp_path / "file"))
    with pytest.raises(InsituError, match=r"cannot be made.*memory\.directory"):
        build_trainer(wrong, _CPU)


def test_tasks_behind_a_boundary_have_their_own_names_and_gem_tells_what_it_remembers(
    tmp_path: Path,
) -> None:
    strategies = [{"name": "gem", "options": {"capacity_samples": 40, "most_tasks": 4}}]
    trainer = build_trainer(check_config(config(tmp_path, strategies=strategies)), _CPU)  # type: ignore[arg-type]
    assert memory_fill(trainer, ["flow"], []) is None
    for _ in range(2):
        trainer.step(Batch.of({"x": torch.randn(8, 6), "y": torch.tensor([0, 1] * 4)}))
        trainer.declare_boundary()
    fill = memory_fill(trainer, ["flow"], ["rank-0"])
    assert fill is not None
    assert fill["by_task"] == {"flow": 8, "flow#2": 8}
    assert (fill["samples"], fill["by_class"]) == (16, {"0": 8, "1": 8})


@pytest.mark.parametrize("policy", ["class_balanced", "ring_per_class", "herding"])
@pytest.mark.parametrize(("field", "why"), [("z", "not in the stream"), ("x", "one whole number")])
def test_a_label_that_no_sample_has_is_refused_at_start(
    policy: str, field: str, why: str, tmp_path: Path
) -> None:
    wrong = _config(tmp_path, name=policy, options={"label": field})
    with pytest.raises(InsituError, match=f"label field '{field}'.*{why}"):
        build_trainer(wrong, _CPU)
    build_trainer(_config(tmp_path, name=policy, options={"label": "y"}), _CPU)
