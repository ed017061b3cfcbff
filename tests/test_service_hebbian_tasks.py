"""Kernel plasticity in a running service: who ends a task, and what steers how much is learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from daemon import Daemon
from insitu.checkpoint import list_checkpoints, read_checkpoint
from insitu_producers import Producer
from served import arrays, books_balance, config, wait_log
from test_service_hebbian import first_weights, weights

STRATEGY = "kernel_plasticity"
OWN_FACTOR = """
def calm(batch, losses):
    return 0.25 if len(losses) else 1.0
"""


def hebbian(directory: Path, options: dict[str, Any], **sections: Any) -> Daemon:
    """A service with two Hebbian layers and a head, fed with x, y and a reward."""
    directory.mkdir(exist_ok=True)
    block = {"kernels": 12, "eta": 0.05, "rates": "constant", "radius": 3.0}
    blocks = [{**block, "standardise": False}, block]
    base = config(
        directory,
        model={"name": "hebbian", "options": {"blocks": blocks, "dimensions": 0}},
        strategies=[{"name": STRATEGY, "options": {"top": 3, **options}}],
        **sections,
    )
    base["stream"]["fields"]["reward"] = {"dtype": "float32", "shape": []}
    base["service"]["drain_on_stop"] = True
    return Daemon(directory, base)


def rows(start: int, stop: int, *, reward: float = 1.0, shift: float = 0) -> dict[str, np.ndarray]:
    """Rows of the stream; other kernels win those that are shifted."""
    plain = arrays(start, stop)
    x = plain["x"] + np.float32(shift) * np.eye(6, dtype=np.float32)[5]
    return {"x": x, "y": plain["y"], "reward": np.full(stop - start, reward, np.float32)}


def push(source: Producer, start: int, stop: int, *, task: str = "", **what: Any) -> None:
    for begin in range(start, stop, 40):
        assert source.push(rows(begin, begin + 40, **what), task=task)


def figure(daemon: Daemon, name: str) -> float:
    return daemon.metric("insitu_strategy_figure", strategy=STRATEGY, figure=name)


def state(daemon: Daemon) -> dict[str, Any]:
    newest = list_checkpoints(Path(daemon.config["checkpoint"]["directory"]))[-1]
    found: dict[str, Any] = read_checkpoint(newest)[0]["trainer"]
    return found


def producer(daemon: Daemon) -> Producer:
    return Producer(
        daemon.endpoint, stream="small", producer_id="rank-0", epoch=1, linger_seconds=60
    )


def test_tasks_are_ended_by_producers_by_command_and_by_detection(tmp_path: Path) -> None:
    detection = [{"name": "winner_divergence", "options": {"window_steps": 10}}]
    options = {"mode": "lock", "standardisation": "per_task"}
    with hebbian(tmp_path, options, detection=detection) as daemon:
        daemon.start()
        with producer(daemon) as source:
            push(source, 0, 160, task="cold")
            push(source, 160, 320, task="hot")  # the producer has gone on
            source.flush(60)
            wait_log(daemon, "task cold ended after 160 samples")
            daemon.wait_metric("insitu_trained_samples_total", 320, source="fresh")
            assert figure(daemon, "consolidations") == 1
            assert figure(daemon, "protected_share") == 0.5

            assert daemon.post("end_task")[1]["result"] == {"tasks": ["hot"]}
            assert figure(daemon, "consolidations") == 2

            push(source, 2000, 2640, task="hot")
            source.flush(60)
            daemon.wait_metric("insitu_trained_samples_total", 960, source="fresh")
            assert figure(daemon, "consolidations") == 2
            push(source, 4000, 4400, task="hot", shift=6.0)  # nobody tells
            source.flush(60)
            wait_log(daemon, "winner_divergence: the stream has changed")
            assert figure(daemon, "consolidations") == 3
        daemon.wait_metric("insitu_trained_samples_total", 1360, source="fresh")
        assert books_balance(daemon)
        assert daemon.stop() == 0
        kept = state(daemon)
    layers = kept["strategies"][STRATEGY]["layers"]["blocks.1.layer"]
    assert int(layers["protected"].sum()) == 6
    statistics = kept["model"]["blocks.1.standardisation.of_tasks.tasks"].tolist()
    assert statistics[:3] == [0, 1, 2]  # cold, hot, and what the command cut off
    means = kept["model"]["blocks.1.standardisation.of_tasks.means"]
    assert means.shape == (len(statistics), 12)


def test_a_reward_that_producers_push_says_how_much_is_learned(tmp_path: Path) -> None:
    factor = {"source": "reward", "reward_field": "reward", "most": 5.0}
    with hebbian(tmp_path, {"mode": "off", "third_factor": factor}) as daemon:
        daemon.start()
        with producer(daemon) as source:
            push(source, 0, 80, reward=0.0)
            source.flush(60)
            daemon.wait_metric("insitu_trained_samples_total", 80, source="fresh")
            assert figure(daemon, "third_factor") == 0.0
            assert daemon.post("checkpoint")[0] == 200
            name = "blocks.0.layer.weight"
            assert torch.equal(weights(daemon)[name], first_weights(daemon)[name])
            push(source, 80, 160, reward=2.5)
            source.flush(60)
            daemon.wait_metric("insitu_trained_samples_total", 160, source="fresh")
            assert figure(daemon, "third_factor") == figure(daemon, "gain_mean") == 2.5
        assert daemon.stop() == 0
        assert not torch.equal(weights(daemon)[name], first_weights(daemon)[name])


def test_a_function_of_the_operator_is_the_third_factor(tmp_path: Path) -> None:
    (tmp_path / "my_factor.py").write_text(OWN_FACTOR)
    options = {"mode": "off", "third_factor": {"source": "my_factor:calm"}}
    with hebbian(tmp_path, options) as daemon:
        daemon.start(environment={"PYTHONPATH": str(tmp_path)})
        with producer(daemon) as source:
            push(source, 0, 80)
        daemon.wait_metric("insitu_trained_samples_total", 80, source="fresh")
        assert figure(daemon, "third_factor") == figure(daemon, "gain_mean") == 0.25
        assert daemon.stop() == 0


@pytest.mark.parametrize("source", ["surprise", "novelty", "replayed"])
def test_sources_of_our_own_steer_in_a_service(source: str, tmp_path: Path) -> None:
    replay = {
        "name": "replay",
        "options": {"samples_per_step": 8},
        "memory": {"name": "reservoir", "capacity_samples": 40},
    }
    with hebbian(tmp_path, {"mode": "off", "third_factor": {"source": source}}) as daemon:
        daemon.config["strategies"].insert(0, replay)
        daemon.start()
        with producer(daemon) as pushing:
            push(pushing, 0, 200)
        daemon.wait_metric("insitu_trained_samples_total", 200, source="fresh")
        value = figure(daemon, "third_factor")
        assert 0.0 < value < 3.0
        assert value != 1.0
        assert figure(daemon, "gain_mean") == pytest.approx(value)
        if source == "replayed":
            assert value == 0.5  # as many replayed as fresh, which count for nothing
        assert daemon.stop() == 0


def test_a_reward_that_no_producer_pushes_is_refused_before_the_start(tmp_path: Path) -> None:
    factor = {"source": "reward", "reward_field": "joy"}
    with hebbian(tmp_path, {"third_factor": factor}) as daemon:
        daemon.launch()
        assert daemon.process is not None
        assert daemon.process.wait(60.0) == 2
        assert "reward_field is 'joy'" in daemon.log()
        assert "reward, y" in daemon.log()  # what there is
