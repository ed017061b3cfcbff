"""A Hebbian network inside the service, fed by a producer: steps a second against a bare loop.

The service takes images from another process that pushes as fast as it is let. The floor is the
loop that anybody would write, with the same network, head and optimizer, on rows that lie in memory
already: no stream, no metrics, no reports. Both use one CPU thread, so that the second core is left
to the producer; they take turns, and the ratio is that of the same turn.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from torch.nn import functional

from insitu.layers.update import HebbianUpdate
from insitu.models.build import build_model
from insitu_service.bench.comparison import Comparison, compare, print_table
from insitu_service.bench.fed_service import FedService
from insitu_service.supervision.heap import keep_freed_memory

_SHAPE = (3, 32, 32)
_CLASSES = 10
_BATCH_SAMPLES = 10
_OPTIONS = {"network": "cifar10", "width": 0.25}
#: least share of the bare loop's steps per second
TARGET = 0.95


class BareLoop:
    """The floor: forward pass, head's gradient, both updates, over rows that are there already."""

    def __init__(self) -> None:
        self._model = build_model("hebbian", _OPTIONS, _SHAPE, (_CLASSES,), seed=0)
        trained = [p for p in self._model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(trained, lr=1e-3)
        self._update = HebbianUpdate(self._model)
        generator, rows = torch.Generator().manual_seed(0), _BATCH_SAMPLES
        self._x = [torch.rand(rows, *_SHAPE, generator=generator) for _ in range(16)]
        self._y = [torch.randint(0, _CLASSES, (rows,), generator=generator) for _ in range(16)]

    def steps_per_second(self, seconds: float) -> float:
        began, steps = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - began) < seconds:
            outputs = self._model(self._x[steps % 16])
            loss = functional.cross_entropy(outputs, self._y[steps % 16])
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            self._update.step()
            steps += 1
        return steps / elapsed


def _config() -> dict[str, Any]:
    return {
        "stream": {
            "names": ["bench"],
            "endpoints": ["tcp://127.0.0.1:*"],
            "fields": {
                "x": {"dtype": "float32", "shape": list(_SHAPE)},
                "y": {"dtype": "int64", "shape": []},
            },
        },
        "buffer": {"policy": "fifo", "capacity_samples": 1024},
        "model": {"name": "hebbian", "options": _OPTIONS},
        "objective": {"name": "classify", "options": {"classes": _CLASSES}},
        "optimizer": {"name": "AdamW", "options": {"lr": 1e-3}},
        "trainer": {"batch_size": _BATCH_SAMPLES, "threads": 1, "device": "cpu"},
        "http": {"port": 0},
    }


def measure(rounds: int, seconds: float) -> list[Comparison]:
    """Steps per second of the quarter-width CIFAR-10 network, batches of 10."""
    torch.set_num_threads(1)
    keep_freed_memory()
    bare = BareLoop()
    service = FedService(_config(), shape=_SHAPE, classes=_CLASSES, rows=32)
    bare.steps_per_second(0.5)
    floors, ours = [], []
    for _ in range(rounds):
        floors.append(bare.steps_per_second(seconds))
        ours.append(service.steps_per_second(seconds))
    name = "hebbian, CIFAR-10 network at width 0.25"
    return [compare(name, "steps/s", ours, floors, target=TARGET, at_least=True)]


def main(arguments: list[str]) -> int:
    """Print the table; the exit code is 0 whatever it says."""
    parser = argparse.ArgumentParser(prog="insitu bench hebbian", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    given = parser.parse_args(arguments)
    print_table("hebbian", measure(given.rounds, given.seconds))
    return 0
