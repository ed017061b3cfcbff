"""`insitu kernels` on checkpoints that a service wrote, and on what is none."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from prometheus_client.parser import text_string_to_metric_families

from daemon import Daemon
from insitu.analysis.kernels import COLUMNS
from insitu.checkpoint import (
    SnapshotBuffers,
    checkpoint_name,
    list_checkpoints,
    read_checkpoint,
    write_checkpoint,
)
from insitu_producers import Producer
from insitu_service import exit_codes
from insitu_service.cli.kernels import _COLUMNS
from insitu_service.cli.run import run
from insitu_service.kernels.hinton import FALLEN, RISEN
from insitu_service.kernels.moments import (
    changes_by_task,
    read_history,
    read_moment,
    shares_between,
)
from learning import Setup, make_batch

CONFIG = {
    "stream": {"names": ["s"], "fields": {"x": {"dtype": "float32", "shape": [3, 8, 8]},
                                          "y": {"dtype": "int64"}}},
    "buffer": {"policy": "fifo", "capacity_samples": 256},
    "pace": {"kind": "fixed"},
    "model": {"name": "hebbian", "options": {"blocks": [
        {"kernels": 12, "kernel_size": 3, "pool": {"kind": "max", "size": 2}},
        {"kernels": 20, "kernel_size": 3},
        {"kernels": 6},
    ]}},
    "objective": {"name": "classify", "options": {"classes": 4}},
    "strategies": [{"name": "kernel_plasticity", "options": {"top": 3}}],
    "service": {"drain_on_stop": False},  # so that the last task does not end
    "trainer": {"batch_size": 10, "threads": 1},
    "checkpoint": {"every_steps": 4, "keep": 100},
}  # fmt: skip
FIRST, SECOND, THIRD = (f"blocks.{index}.layer" for index in range(3))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints of a service that learned two tasks, and began a third."""
    directory = tmp_path_factory.mktemp("service")
    checkpoints = directory / "checkpoints"
    section = {**CONFIG["checkpoint"], "directory": str(checkpoints)}  # type: ignore[dict-item]
    rng = np.random.default_rng(0)
    with Daemon(directory, {**CONFIG, "checkpoint": section}) as daemon:
        daemon.start()
        # what a producer that leaves was pushing ends, so the service stops before it does
        with Producer(daemon.endpoint, stream="s", producer_id="p", linger_seconds=0) as producer:
            for task, steps in enumerate((8, 8, 6), start=1):
                x = rng.normal(size=(10 * steps, 3, 8, 8)).astype(np.float32)
                y = rng.integers(0, 4, 10 * steps)
                assert producer.push({"x": x, "y": y}, task=f"task {task}")
                if task < 3:
                    daemon.wait_metric("insitu_steps_total", 8 * task)
                    assert daemon.post("end_task")[0] == 200
            daemon.wait_metric("insitu_steps_total", 22)
            (directory / "metrics.txt").write_text(daemon.get("/metrics")[1])
            assert daemon.stop() == 0
    return checkpoints


def answer(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    assert run(["kernels", *map(str, arguments), "--json"]) == exit_codes.OK
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_every_kernel_has_a_row_with_the_numbers_of_the_checkpoint(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = answer(capsys, root)
    assert found["checkpoint"] == str(list_checkpoints(root)[-1])
    state = read_checkpoint(list_checkpoints(root)[-1])[0]["trainer"]
    layers = {layer["layer"]: layer for layer in found["layers"]}
    assert [len(layer["kernels"]) for layer in layers.values()] == [12, 20, 6]
    for name, layer in layers.items():
        part = state["strategies"]["kernel_plasticity"]["layers"][name]
        assert (layer["updates"], layer["tasks"]) == (22, 2)
        assert layer["steps"] == part["steps"] == 6
        assert layer["shape"] == list(state["model"][f"{name}.weight"].shape)
        weights = state["model"][f"{name}.weight"].flatten(1)
        for row, kernel in enumerate(layer["kernels"]):
            assert tuple(kernel) == COLUMNS
            assert kernel["norm"] == pytest.approx(weights[row].norm().item(), rel=1e-5)
            assert kernel["importance"] == part["importance"][row].item()
            assert kernel["change_mean_per_step"] == part["change_mean"][row].item()
            assert kernel["protected"] == bool(part["protected"][row])
            assert (kernel["budget_per_step"] is None) != kernel["protected"]


def test_one_checkpoint_one_layer_and_an_order(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = root / checkpoint_name(8)
    found = answer(capsys, path, "--layer", SECOND, "--sort", "change_mean")
    assert (found["step"], [layer["layer"] for layer in found["layers"]]) == (8, [SECOND])
    changes = [kernel["change_mean_per_step"] for kernel in found["layers"][0]["kernels"]]
    assert changes == sorted(changes, reverse=True)
    assert len(set(changes)) > 10


def test_the_text_has_the_same_rows(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["kernels", str(root), "--layer", FIRST, "--sort", "budget"]) == exit_codes.OK
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines if line.split() and line.split()[0].isdigit()]
    assert sorted(int(row[0]) for row in rows) == list(range(12))
    assert {len(row) for row in rows} == {len(COLUMNS)}
    budgets = [row[-1] for row in rows]
    known = budgets.index("-")
    assert known > 1
    assert set(budgets[known:]) == {"-"}
    assert "mode cap, 2 tasks ended, 6 steps and 60 images since" in lines[2]


def test_columns_can_all_be_sorted_by() -> None:
    assert tuple(name.removesuffix("_per_step") for name in COLUMNS) == _COLUMNS


def test_metrics_are_quantiles_and_counts_of_the_same_figures(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    series = {
        (
            sample.name,
            *(sample.labels.get(label, "") for label in ("layer", "column", "kernels")),
        ): sample.value
        for family in text_string_to_metric_families((root.parent / "metrics.txt").read_text())
        for sample in family.samples
        if sample.name.startswith("insitu_hebbian")
    }
    for layer in answer(capsys, root)["layers"]:
        name, kernels = layer["layer"], layer["kernels"]
        protected = sum(kernel["protected"] for kernel in kernels)
        assert series["insitu_hebbian_protected_kernels", name, "", ""] == protected > 0
        figures = [each for each in COLUMNS if each not in ("kernel", "protected")]
        for figure in set(figures) - {"norm", "learning_rate"}:
            values = [kernel[figure] for kernel in kernels if kernel[figure] is not None]
            for share, expected in (("0.0", min(values)), ("0.5", np.median(values)),
                                    ("1.0", max(values))):  # fmt: skip
                found = series["insitu_hebbian_kernel_figure", name, figure, share]
                assert found == pytest.approx(expected, rel=1e-6, abs=1e-12), figure
    assert len(series) < 3 * 100


# the pictures


@pytest.fixture(scope="module")
def pictures(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures") / "new"
    assert run(["kernels", str(root), "--pictures", str(folder), "--sort", "norm"]) == 0
    return folder


def test_pictures_of_all_that_can_be_drawn_are_written(pictures: Path) -> None:
    expected = {f"{what}-{layer}.png" for layer in (FIRST, SECOND, THIRD)
                for what in ("kernels", "change", "tasks", "winners")}  # fmt: skip
    # twelve channels stand side by side; six hundred inputs are no image, but a Hinton diagram
    assert {path.name for path in pictures.iterdir()} == expected
    for path in pictures.iterdir():
        pixels = imread(path)[..., :3]
        assert pixels.std() > 0.02, path.name
        assert pixels.shape[0] > 200, path.name
        assert pixels.shape[1] > 300, path.name


def colour_share(path: Path, colour: str) -> float:
    wanted = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    return float((np.abs(imread(path)[..., :3] - wanted).max(axis=-1) < 0.02).mean())


@pytest.mark.parametrize("name", [f"change-{FIRST}", f"change-{SECOND}", f"change-{THIRD}",
                                  f"kernels-{THIRD}"])  # fmt: skip
def test_changes_are_red_and_blue(pictures: Path, name: str) -> None:
    path = pictures / f"{name}.png"
    assert colour_share(path, RISEN) > 0.01
    assert colour_share(path, FALLEN) > 0.01


def test_what_cannot_be_drawn_is_told_on_stderr(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = list_checkpoints(root)[0]
    found = answer(capsys, first, "--layer", THIRD, "--pictures", tmp_path)
    assert run(["kernels", str(first), "--layer", THIRD, "--pictures", str(tmp_path)]) == 0
    told = capsys.readouterr().err
    names = [Path(path).name for path in found["pictures"]]
    assert names == [f"kernels-{THIRD}.png", f"winners-{THIRD}.png"]
    for reason in ("only one checkpoint", "behind the end of a task"):
        assert reason in told


# over many checkpoints


def test_change_by_task_is_that_of_the_task_that_ended(root: Path) -> None:
    moments, damaged = read_history(read_moment(root))
    assert not damaged
    assert [moment.step for moment in moments] == [4, 8, 12, 16, 20, 22]
    changes = changes_by_task(moments, FIRST)
    assert sorted(changes) == [1, 2]
    for task, moment in ((1, moments[2]), (2, moments[-1])):
        state = read_checkpoint(moment.path)[0]["trainer"]["strategies"]["kernel_plasticity"]
        assert torch.equal(changes[task], state["layers"][FIRST]["last_moved_mean"])
    assert not torch.equal(changes[1], changes[2])


def test_shares_are_of_the_images_between_two_checkpoints(root: Path) -> None:
    def counted(step: int) -> tuple[torch.Tensor, float]:
        state = read_checkpoint(root / checkpoint_name(step))[0]["trainer"]["strategies"]
        part = state["kernel_plasticity"]["layers"][SECOND]
        return part["hits"], float(part["images"])

    moments = {moment.step: moment.tables[SECOND] for moment in read_history(read_moment(root))[0]}
    within = shares_between(moments[20], moments[22])
    assert within is not None
    hits = counted(22)[0] - counted(20)[0]
    torch.testing.assert_close(within, hits / 20.0, rtol=1e-4, atol=1e-5)
    assert counted(22)[1] - counted(20)[1] == 20
    across = shares_between(moments[8], moments[12])  # a task ended in between
    torch.testing.assert_close(across, counted(12)[0] / counted(12)[1])
    assert within.sum().item() == pytest.approx(3.0, rel=1e-4)


def test_a_damaged_checkpoint_is_passed_over_and_told(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in list_checkpoints(root)[:3]:
        (tmp_path / path.name).mkdir()
        for file in path.iterdir():
            (tmp_path / path.name / file.name).write_bytes(file.read_bytes())
    broken = tmp_path / checkpoint_name(8) / "tensors.safetensors"
    broken.write_bytes(broken.read_bytes()[:-1] + b"?")
    assert run(["kernels", str(tmp_path), "--layer", THIRD, "--pictures", str(tmp_path / "p")]) == 0
    assert "is damaged, and left out" in capsys.readouterr().err
    assert (tmp_path / "p" / f"change-{THIRD}.png").is_file()
    assert run(["kernels", str(broken.parent)]) == exit_codes.CHECKPOINT


# bad input


def plain(root: Path, *strategies: str, hebbian: bool) -> Path:
    """A checkpoint of a trainer's own state, as somebody may write it with the library."""
    trainer = Setup(strategies=strategies, hebbian=hebbian).trainer()
    trainer.step(make_batch("classify", 8, seed=0))
    snapshot = SnapshotBuffers().capture(trainer.state_dict(), 5.0)
    assert snapshot is not None
    write_checkpoint(root, snapshot, 1, None, {})
    snapshot.release()
    return root


def test_a_checkpoint_of_a_trainer_without_plasticity_shows_the_layers_own_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain(tmp_path, "replay", hebbian=True)
    kernels = answer(capsys, tmp_path, "--sort", "norm")["layers"][0]["kernels"]
    assert all(math.isfinite(kernel["norm"]) for kernel in kernels)
    assert {kernel["gain"] for kernel in kernels} == {None}
    assert run(["kernels", str(tmp_path)]) == exit_codes.OK
    header = capsys.readouterr().out.splitlines()[4].split()
    assert header == ["kernel", "norm", "rate"]
    assert run(["kernels", str(tmp_path), "--sort", "gain"]) == exit_codes.USAGE
    assert "allowed: kernel, norm, learning_rate" in capsys.readouterr().err


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Any:
    def check(code: int, *arguments: str | Path) -> str:
        assert run(["kernels", *map(str, arguments)]) == code
        out, told = capsys.readouterr()
        assert out == ""
        return told

    return check


def test_bad_input_says_what_is_wrong(root: Path, tmp_path: Path, refused: Any) -> None:
    told = refused(exit_codes.USAGE, root, "--layer", "blocks.7")
    assert f"allowed: {FIRST}, {SECOND}, {THIRD}" in told
    assert "does not exist" in refused(exit_codes.USAGE, tmp_path / "nowhere")
    assert "there is none in it" in refused(exit_codes.CHECKPOINT, tmp_path)
    assert "is not one of" in refused(exit_codes.USAGE, root, "--sort", "luck")
    told = refused(exit_codes.USAGE, plain(tmp_path, hebbian=False))
    assert "the model has no Hebbian layer" in told


def test_a_state_of_something_else_is_refused(tmp_path: Path, refused: Any) -> None:
    snapshot = SnapshotBuffers().capture({"weights": torch.ones(2)}, 5.0)
    assert snapshot is not None
    write_checkpoint(tmp_path, snapshot, 1, None, {})
    snapshot.release()
    assert "holds weights" in refused(exit_codes.USAGE, tmp_path)
