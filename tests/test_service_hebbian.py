"""`insitu serve` learns with Hebbian networks, from the YAML files that we ship as examples."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from daemon import Daemon, wait_for
from insitu.checkpoint import list_checkpoints, read_checkpoint
from insitu.config import load_config
from insitu_producers import Producer
from insitu_producers.sources.catalogue import open_stream
from insitu_producers.sources.feed import Push
from insitu_service.learning.building import build_network
from served import books_balance
from test_service_resume import differences

EXAMPLES = Path(__file__).parent.parent / "deploy" / "examples"
FILES = sorted(EXAMPLES.glob("hebbian_*.yaml"))


def example(name: str, directory: Path, **model_options: Any) -> dict[str, Any]:
    """A file of ours, but with its checkpoints in `directory` and a port that is free."""
    config: dict[str, Any] = yaml.safe_load((EXAMPLES / name).read_text())
    config["http"] = {"port": 0}
    config["checkpoint"] = {"directory": str(directory / "checkpoints"), "every_seconds": None}
    config["service"]["drain_on_stop"] = False
    config["model"]["options"].update(model_options)
    return config


@contextmanager
def daemon_in(directory: Path, config: dict[str, Any]) -> Iterator[Daemon]:
    directory.mkdir(exist_ok=True)
    with Daemon(directory, config) as daemon:
        yield daemon


def producer(daemon: Daemon, epoch: int = 1) -> Producer:
    stream = daemon.config["stream"]["names"][0]
    options: dict[str, Any] = {"linger_seconds": 60, "epoch": epoch}
    return Producer(daemon.endpoint, stream=stream, producer_id="source", **options)


def send(source: Producer, pushes: Iterable[Push]) -> None:
    for push in pushes:
        assert source.push(push.fields, task=push.task, evaluate=push.evaluate, cursor=push.cursor)


def weights(daemon: Daemon) -> dict[str, torch.Tensor]:
    """Of the newest checkpoint's Hebbian layers."""
    path = list_checkpoints(Path(daemon.config["checkpoint"]["directory"]))[-1]
    state = read_checkpoint(path)[0]["trainer"]["model"]
    return {name: value for name, value in state.items() if name.endswith("layer.weight")}


def first_weights(daemon: Daemon) -> dict[str, torch.Tensor]:
    """As the service drew them from its seed."""
    _, model = build_network(load_config(daemon.directory / "run.yaml"))
    return {n: value for n, value in model.state_dict().items() if n.endswith("layer.weight")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_examples_are_valid_and_name_their_source(path: Path) -> None:
    config = load_config(path)
    objective, model = build_network(config)
    assert model(torch.zeros(2, *objective.input_shape)).shape == (2, *objective.output_shape)
    text = path.read_text()
    assert f"insitu serve {path.name}" in text
    assert "python -m insitu_producers.sources." in text


def test_images_through_a_stop_as_without_one(tmp_path: Path) -> None:
    """Weights, rates, counts and all: a resumed service equals one that was never stopped."""
    pushes = list(open_stream("digits/class_incremental", seed=0).joined(seed=0))
    held_out = [push for push in pushes if push.evaluate]
    training = [push for push in pushes if not push.evaluate][:12]
    steps = math.ceil(sum(push.rows for push in training) / 10)
    whole_config, parts_config = (
        example("hebbian_digits.yaml", tmp_path / name, padded_rows=20)
        for name in ("whole", "parts")
    )
    plasticity = {"standardisation": "per_task", "third_factor": {"source": "surprise"}}
    for config in (whole_config, parts_config):
        config["strategies"].append({"name": "kernel_plasticity", "options": plasticity})
    with (
        daemon_in(tmp_path / "whole", whole_config) as whole,
        daemon_in(tmp_path / "parts", parts_config) as parts,
    ):
        whole.launch()
        parts.start()
        source = producer(parts)
        send(source, [*held_out, *training[:6]])
        wait_for(lambda: parts.metric("insitu_steps_total") >= 5, "the first steps")
        assert parts.stop() == 0
        stopped = weights(parts)
        drawn = first_weights(parts)
        assert stopped.keys() == drawn.keys()
        assert not any(torch.equal(stopped[name], drawn[name]) for name in drawn)

        send(source, training[6:])  # the service is away
        parts.launch("--resume")
        other = producer(whole.wait_ready())
        send(other, [*held_out, *training])
        for each, daemon in ((other, whole), (source, parts.wait_ready())):
            each.close()
            daemon.wait_metric("insitu_hebbian_updates_total", steps, layer="blocks.1.layer")
            assert updates(daemon) == (steps, steps)  # also those of before the stop
            assert plastic(daemon) == (1, 1)
        assert parts.metric("insitu_hebbian_kernels") == 32 + 96
        norms = [
            whole.metric("insitu_hebbian_kernel_norm", layer="blocks.0.layer", kernels=share)
            for share in ("0.0", "0.5", "1.0")
        ]
        assert 0.9 < norms[0] <= norms[1] <= norms[2] < 40.0
        assert norms[1] < 24.0  # they begin at about 25
        for daemon in (whole, parts):
            code, answer = daemon.post("evaluate")
            assert code == 200
            scores = [score["accuracy"] for score in answer["result"]["scores"].values()]
            assert sum(scores) / len(scores) > 0.6  # chance is 0.1
        assert books_balance(whole)
        assert whole.stop() == parts.stop() == 0
        assert differences(newest(whole), newest(parts)) == []


def newest(daemon: Daemon) -> Path:
    return list_checkpoints(Path(daemon.config["checkpoint"]["directory"]))[-1]


def test_periodic_fields_block_after_block(tmp_path: Path) -> None:
    """The first block learns, then the second, then both stand; the checkpoint knows where."""
    config = example("hebbian_fields.yaml", tmp_path, plastic_updates=8)
    config["stream"]["fields"]["x"]["shape"] = [2, 16, 16]
    options = {"size": 16, "pushes": 28, "transient_steps": 500, "steps_per_push": 20}
    pushes = list(open_stream("gray_scott_regimes", seed=0, options=options))
    held_out = [push for push in pushes if push.evaluate]
    training = [push for push in pushes if not push.evaluate]
    with daemon_in(tmp_path, config) as daemon:
        daemon.start()
        with producer(daemon) as source:
            send(source, islice(training, 0, 12))
            daemon.wait_metric("insitu_hebbian_updates_total", 4, layer="blocks.1.layer")
        assert updates(daemon) == (8, 4)
        assert plastic(daemon) == (0, 1)
        assert daemon.stop() == 0
        before = weights(daemon)

        daemon.start("--resume")
        assert (updates(daemon), plastic(daemon)) == ((8, 4), (0, 1))
        with producer(daemon, epoch=2) as source:
            send(source, [*islice(training, 12, None), *held_out])
        daemon.wait_metric("insitu_trained_samples_total", 16 * 12, source="fresh")
        assert (updates(daemon), plastic(daemon)) == ((8, 8), (0, 0))
        assert daemon.post("evaluate")[0] == 200
        assert daemon.metric("insitu_evaluation_score", figure="accuracy") > 0.4  # chance: 0.25
        assert daemon.stop() == 0
        after = weights(daemon)
        assert torch.equal(after["blocks.0.layer.weight"], before["blocks.0.layer.weight"])
        assert not torch.equal(after["blocks.1.layer.weight"], before["blocks.1.layer.weight"])


def updates(daemon: Daemon) -> tuple[float, ...]:
    return by_layer(daemon, "insitu_hebbian_updates_total")


def plastic(daemon: Daemon) -> tuple[float, ...]:
    return by_layer(daemon, "insitu_hebbian_plastic")


def by_layer(daemon: Daemon, name: str) -> tuple[float, ...]:
    return tuple(daemon.metric(name, layer=f"blocks.{index}.layer") for index in (0, 1))
