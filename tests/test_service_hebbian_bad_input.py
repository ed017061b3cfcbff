"""What a Hebbian network in a service may be given: an error by name, or no harm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from daemon import Daemon
from insitu.errors import ProducerError
from insitu.schema import Schema
from insitu_producers import Producer
from served import books_balance, config
from test_service_bad_start import Attempt
from test_service_hebbian import first_weights, weights

SHAPE = (2, 6, 6)
FIELDS = {"x": {"dtype": "float32", "shape": list(SHAPE)}, "y": {"dtype": "int64", "shape": []}}
BLOCKS: list[dict[str, Any]] = [
    {"kernels": 6, "kernel_size": 3, "pool": {"kind": "max", "size": 2}},
    {"kernels": 8},
]


def settings(directory: Path, blocks: list[dict[str, Any]], **sections: Any) -> dict[str, Any]:
    sections = {"model": {"name": "hebbian", "options": {"blocks": blocks}}, **sections}
    base = config(directory, **sections)
    base["stream"] = {**base["stream"], "fields": FIELDS}
    return base


def images(rows: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.normal(size=(rows, *SHAPE)).astype(np.float32)


def labelled(x: np.ndarray) -> dict[str, np.ndarray]:
    return {"x": x, "y": np.arange(len(x)) % 4}


def hostile() -> list[np.ndarray]:
    """What a layer could choke on, one push after the other."""
    zeros, single = np.zeros((4, *SHAPE), np.float32), images(1, seed=7)
    constant = np.full((4, *SHAPE), 3.0, np.float32)
    bad = images(8, seed=3)
    bad[1, 0, 2, 2], bad[6, 1] = np.nan, np.inf
    huge = images(4, seed=4) * np.float32(1e30)
    return [zeros, constant, single, bad, huge]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_hostile_images_never_reach_a_weight(batch_size: int, tmp_path: Path) -> None:
    sections = settings(tmp_path, BLOCKS, trainer={"batch_size": batch_size})
    with Daemon(tmp_path, sections) as daemon:
        daemon.start()
        with producer(daemon, linger_seconds=60) as source:
            for x in hostile():
                assert source.push(labelled(x))
            assert source.push(labelled(images(40, seed=5)))
            source.flush(60)
        assert daemon.metric("insitu_quarantined_samples_total", reason="non_finite") == 2
        given = 4 + 4 + 1 + 6 + 4 + 40
        finished = ("insitu_trained_samples_total", "insitu_skipped_samples_total")
        daemon.wait_metric("insitu_steps_total", -(-given // batch_size))
        assert sum(daemon.metric(name) for name in finished) == given
        assert books_balance(daemon)
        assert daemon.stop() == 0
        after, before = weights(daemon), first_weights(daemon)
    for name, weight in after.items():
        assert bool(weight.isfinite().all()), name
        assert not bool((weight == before[name]).all()), name  # what came then was learned


def producer(daemon: Daemon, **options: Any) -> Producer:
    return Producer(daemon.endpoint, stream="small", producer_id="camera", epoch=1, **options)


def test_images_of_other_channels_are_refused_and_the_service_goes_on(tmp_path: Path) -> None:
    with Daemon(tmp_path, settings(tmp_path, BLOCKS)) as daemon:
        daemon.start()
        colour = {"x": np.zeros((4, 3, 6, 6), np.float32), "y": np.zeros(4, np.int64)}
        with Producer(daemon.endpoint, stream="small", producer_id="stranger") as other:
            other.push(colour)
            with pytest.raises(ProducerError, match=r"schema.*\[3, 6, 6\]|schema.*\(3, 6, 6\)"):
                other.flush(20.0)
        schema = Schema.of({"x": ("float32", SHAPE), "y": ("int64", ())})
        with producer(daemon, schema=schema, linger_seconds=60) as source:
            with pytest.raises(ProducerError, match="x"):
                source.push(colour)
            assert source.push(labelled(images(8)))
        daemon.wait_metric("insitu_trained_samples_total", 8, source="fresh")
        assert daemon.stop() == 0


CANNOT_BE: list[tuple[dict[str, Any], str]] = [
    ({"kernels": 6, "kernel_size": 9, "padding": 0}, "block 0: a Hebbian kernel of 9 places"),
    ({"kernels": 6, "kernel_size": 3, "groups": 4}, "block 0: 4 groups do not divide 2 channels"),
]


@pytest.mark.parametrize(("block", "said"), CANNOT_BE)
def test_a_network_that_cannot_be_keeps_the_service_from_starting(
    block: dict[str, Any], said: str, tmp_path: Path
) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings(tmp_path, [block])))
    code, output = Attempt(tmp_path).of("serve", str(tmp_path / "run.yaml"))
    assert code == 2, output
    assert said in output
    assert "Traceback" not in output


def test_cuda_graphs_without_a_gpu_are_refused(tmp_path: Path) -> None:
    trainer = {"cuda_graphs": True, "device": "cpu"}
    sections = settings(tmp_path, BLOCKS, trainer=trainer)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(sections))
    code, output = Attempt(tmp_path).of("serve", str(tmp_path / "run.yaml"))
    assert code == 2, output
    assert "trainer.cuda_graphs is true, and the model is on cpu" in output
    assert "Traceback" not in output


def test_a_checkpoint_of_another_width_is_not_resumed_from(tmp_path: Path) -> None:
    with Daemon(tmp_path, settings(tmp_path, BLOCKS)) as daemon:
        daemon.start()
        with producer(daemon, linger_seconds=60) as source:
            assert source.push(labelled(images(16)))
        daemon.wait_metric("insitu_trained_samples_total", 16, source="fresh")
        assert daemon.stop() == 0
    wider = [{**BLOCKS[0], "kernels": 12}, BLOCKS[1]]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings(tmp_path, wider)))
    code, output = Attempt(tmp_path).of("serve", str(tmp_path / "run.yaml"), "--resume")
    assert code != 0, output
    assert "Hebbian layer 'blocks.0.layer' has weights of [6, 2, 3, 3]" in output
    assert "[12, 2, 3, 3]" in output
    assert "Traceback" not in output
