"""A running service: probes from files, evaluation beside ingest, range test and cool-down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from daemon import Daemon, wait_for
from insitu.checkpoint import list_checkpoints, read_checkpoint
from insitu_service import exit_codes
from insitu_service.cli.run import run
from served import arrays, books_balance, config, producer, push, wait_log

SLOW_MODEL = '''
"""A linear model that in evaluation waits until a file is there."""
import pathlib, time, torch
HERE = pathlib.Path(__file__).parent

class Slow(torch.nn.Linear):
    def forward(self, x):
        if not self.training and (HERE / "hold").exists():
            (HERE / "held").touch()
            while (HERE / "hold").exists():
                time.sleep(0.01)
        return super().forward(x)

def make(input_shape, output_shape):
    return Slow(input_shape[0], output_shape[0])
'''


def probe_file(path: Path, start: int, stop: int, **changed: Any) -> Path:
    np.savez(path, **{**arrays(start, stop), **changed})
    return path


def test_probes_from_files_are_measured_and_kept_once_over_a_resume(tmp_path: Path) -> None:
    files = {"cold": str(probe_file(tmp_path / "cold.npz", 5000, 5060))}
    sections = config(
        tmp_path, evaluation={"probe_files": files, "every_steps": 5}, service={"name": "small"}
    )
    with Daemon(tmp_path, sections) as daemon:
        daemon.start()
        with producer(daemon, linger_seconds=60) as source:
            push(source, 0, 200, task="cold")
        daemon.wait_metric("insitu_ended_tasks_total", 1)
        evaluation = daemon.status()["evaluation"]
        assert evaluation["probes"] == {"cold": 60}
        assert evaluation["figures"]["average"] == evaluation["matrix"][0][0]
        assert evaluation["figures"]["average_anytime"] is not None
        assert evaluation["figures"]["forgetting"] is None  # a single task
        assert daemon.metric("insitu_evaluation_figure", figure="average") > 0.5
        prequential = daemon.status()["prequential"]
        assert prequential["mean"]["samples"] == 200
        assert prequential["window"]["loss"] == pytest.approx(prequential["mean"]["loss"])
        loss = daemon.metric("insitu_prequential_task_loss", task="cold")
        assert loss == pytest.approx(prequential["mean"]["loss"])
        assert 0 <= prequential["mean"]["score"] <= 1
        assert daemon.stop() == 0
        daemon.start("--resume")
        code, answer = daemon.post("evaluate")
        assert code == 200
        assert answer["result"]["scores"]["cold"]["accuracy"] == evaluation["matrix"][0][0]
        assert daemon.status()["evaluation"]["probes"] == {"cold": 60}
        assert daemon.status()["prequential"]["mean"]["samples"] == 200


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"y": np.full(5, 77)}, "holds 'y' up to 77"),
        ({"x": np.zeros((5, 2), np.float32)}, "shape [2] per sample"),
    ],
)
def test_a_probe_file_that_does_not_fit_is_refused_at_start(
    tmp_path: Path, changed: dict[str, Any], told: str
) -> None:
    path = probe_file(tmp_path / "cold.npz", 0, 5, **changed)
    sections = config(tmp_path, evaluation={"probe_files": {"cold": str(path)}})
    with Daemon(tmp_path, sections) as daemon:
        daemon.launch()
        assert daemon.wait() == exit_codes.USAGE
        assert told in daemon.log()
        assert str(path) in daemon.log()


def test_samples_come_in_while_a_long_evaluation_goes_on(tmp_path: Path) -> None:
    (tmp_path / "slow_model.py").write_text(SLOW_MODEL)
    sections = config(tmp_path, checkpoint={"directory": None})
    sections["model"] = {"name": "slow_model:make"}
    with Daemon(tmp_path, sections) as daemon:
        daemon.start(environment={"PYTHONPATH": str(tmp_path)})
        with producer(daemon, linger_seconds=60) as source:
            assert source.push(arrays(1000, 1040), task="a", evaluate=True)
            push(source, 0, 80, task="a")
            daemon.wait_metric("insitu_steps_total", 10)
            (tmp_path / "hold").touch()
            assert run(["evaluate", "--url", daemon.url, "--timeout", "0"]) == exit_codes.OK
            wait_for((tmp_path / "held").exists, "the evaluation to begin")
            push(source, 80, 280, task="a")
            wait_for(lambda: daemon.status()["stream"]["received_samples"] == 320, "the samples")
            assert daemon.metric("insitu_steps_total") == 10  # it still measures
            (tmp_path / "hold").unlink()
            daemon.wait_metric("insitu_trained_samples_total", 280, source="fresh")
        assert books_balance(daemon)


STRATEGIES = [
    {
        "name": "replay",
        "options": {"samples_per_step": 8},
        "memory": {"name": "class_balanced", "capacity_samples": 60},
    },
    {"name": "online_ewc", "options": {"strength": 5.0}},
]


def final_state(daemon: Daemon) -> dict[str, Any]:
    path = list_checkpoints(Path(daemon.config["checkpoint"]["directory"]))[-1]
    state: dict[str, Any] = read_checkpoint(path)[0]
    return {name: state[name] for name in ("trainer", "examiner")}


def leaves(tree: Any, path: str = "") -> dict[str, Any]:
    if isinstance(tree, dict):
        return {k: v for key in tree for k, v in leaves(tree[key], f"{path}/{key}").items()}
    if isinstance(tree, list):
        return {k: v for n, e in enumerate(tree) for k, v in leaves(e, f"{path}/{n}").items()}
    if path.endswith("provenance"):
        tree = tree[:, [0, 1, 3, 4, 5, 6]]  # without the time of the push
    return {path: tree.numpy().tobytes() if isinstance(tree, torch.Tensor) else tree}


def test_a_run_with_a_range_test_equals_one_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Same weights, memories and figures to the bit; every sample counted once; a picture."""
    states = []
    for name in ("with", "without"):
        directory = tmp_path / name
        directory.mkdir()
        sections = config(directory, schedule={"name": "ExponentialLR", "options": {"gamma": 0.99}})
        sections["strategies"] = STRATEGIES
        with Daemon(directory, sections) as daemon:
            daemon.start()
            with producer(daemon, linger_seconds=60) as source:
                push(source, 0, 80, task="a")
                daemon.wait_metric("insitu_steps_total", 10)
                if name == "with":
                    push(source, 80, 240, task="a")
                    push(source, 240, 400, task="b")
                    plot = directory / "range.png"
                    capsys.readouterr()
                    # tasks end in between: what is put aside is trained before
                    command = ["lr-range-test", "--url", daemon.url, "--steps", "15", "--plot"]
                    command += [str(plot), "--highest", "10", "--format", "json"]
                    assert run(command) == exit_codes.OK
                    found = json.loads(capsys.readouterr().out)
                    assert len(found["rates"]) == len(found["losses"]) <= 15
                    assert found["step"] >= 25
                    assert plot.read_bytes().startswith(b"\x89PNG")
                else:
                    push(source, 80, 240, task="a")
                    push(source, 240, 400, task="b")
            daemon.wait_metric("insitu_ended_tasks_total", 2)
            assert daemon.metric("insitu_trained_samples_total", source="fresh") == 400
            assert daemon.metric("insitu_steps_total") == 50
            assert daemon.status()["prequential"]["mean"]["samples"] == 400
            assert books_balance(daemon)
            assert daemon.stop() == 0
            states.append(leaves(final_state(daemon)))
    tested, plain = states
    assert tested.keys() == plain.keys()
    assert [path for path in plain if tested[path] != plain[path]] == []


def test_a_range_test_without_samples_or_sense_is_refused_and_harmless(tmp_path: Path) -> None:
    with Daemon(tmp_path, config(tmp_path)) as daemon:
        daemon.start()
        code, answer = daemon.post("lr_range_test", steps=3)
        assert (code, "3 steps" in answer["error"]["message"]) == (409, True)
        with producer(daemon, linger_seconds=60) as source:
            push(source, 0, 40, task="a")
            daemon.wait_metric("insitu_steps_total", 5)
            code, answer = daemon.post("lr_range_test", steps=20, wait_seconds=0)
            assert (code, "0 batches" in answer["error"]["message"]) == (409, True)
            push(source, 40, 80, task="a")
            daemon.wait_metric("insitu_steps_total", 10)
        assert books_balance(daemon)


def test_a_cool_down_ends_in_a_checkpoint_and_the_rate_comes_back(tmp_path: Path) -> None:
    sections = config(tmp_path, checkpoint={"keep": 10})
    with Daemon(tmp_path, sections) as daemon:
        daemon.start()
        with producer(daemon, linger_seconds=60) as source:
            push(source, 0, 80, task="a")
            daemon.wait_metric("insitu_steps_total", 10)
            command = ["cool-down", "--url", daemon.url, "--steps", "4", "--timeout", "0"]
            assert run(command) == exit_codes.OK
            wait_log(daemon, "cooling down over 4 steps")
            assert daemon.post("cool_down", steps=4)[0] == 409
            assert daemon.metric("insitu_learning_rate") == pytest.approx(0.05 * 4 / 5)
            push(source, 80, 160, task="a")
            daemon.wait_metric("insitu_steps_total", 20)
            wait_for(lambda: daemon.metric("insitu_checkpoints_total") == 1, "the checkpoint")
        assert daemon.metric("insitu_learning_rate") == 0.05
        wait_log(daemon, "cooled down at step 14")
        (path,) = list_checkpoints(Path(daemon.config["checkpoint"]["directory"]))
        state, _ = read_checkpoint(path)
        assert state["trainer"]["steps"] == 14
        assert state["trainer"]["schedule"]["cooling"] is None


def test_the_cost_of_a_configured_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(config(tmp_path)))
    assert run(["cost", str(path), "--format", "json"]) == exit_codes.OK
    found = json.loads(capsys.readouterr().out)
    assert found["flops"] == 2 * (6 * 16 + 16 * 4)
    assert found["backward_flops"] == 2 * (6 * 16 + 2 * 16 * 4), "the input learns nothing"
    assert found["parameters"] == 6 * 16 + 16 + 16 * 4 + 4
    assert run(["cost", str(path)]) == exit_codes.OK
    table = capsys.readouterr().out
    assert table.splitlines()[-1].split() == ["total", "180", "320", "448"]
