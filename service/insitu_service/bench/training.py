"""Training beside a saturating producer: steps per second against a bare PyTorch loop.

The service takes samples from another process that pushes as fast as it is let, remembers them,
and replays. The floor is the loop that anybody would write, with the same model, loss and
optimizer, on fresh and replayed rows that lie in memory already: no stream, no memory, no
metrics, no reports. Both use one CPU thread, so that the second core is left to the producer.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch

from insitu.models.build import build_model
from insitu_service.bench.comparison import Comparison, compare, print_table
from insitu_service.bench.fed_service import FedService
from insitu_service.supervision.heap import keep_freed_memory

_FIELDS = 256
_CLASSES = 10
_BATCH_SAMPLES = 32
_REPLAYED_SAMPLES = 32
#: step of the bare loop in seconds -> least share of its steps per second
TARGETS = {1e-3: 0.85, 5e-3: 0.95}


class BareLoop:
    """The floor: a training loop over rows that are there already.

    Args:
        width: of the two hidden layers.
    """

    def __init__(self, width: int) -> None:
        self._model = build_model(
            "mlp", {"hidden": [width, width]}, (_FIELDS,), (_CLASSES,), seed=0
        )
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=1e-3)
        rows = _BATCH_SAMPLES + _REPLAYED_SAMPLES
        generator = torch.Generator().manual_seed(0)
        self._x = [torch.rand(rows, _FIELDS, generator=generator) for _ in range(16)]
        self._y = [torch.randint(0, _CLASSES, (rows,), generator=generator) for _ in range(16)]

    def steps_per_second(self, seconds: float) -> float:
        began, steps = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - began) < seconds:
            outputs = self._model(self._x[steps % 16])
            loss = torch.nn.functional.cross_entropy(outputs, self._y[steps % 16])
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            steps += 1
        return steps / elapsed


def width_for(step_seconds: float) -> int:
    """The width at which a step of the bare loop takes about so long here and now."""
    width = 64
    while 1 / BareLoop(width).steps_per_second(0.3) < step_seconds and width < 4096:
        width = int(width * 1.25)
    return width


def _config(width: int) -> dict[str, Any]:
    memory = {"name": "reservoir", "capacity_samples": 10_000}
    return {
        "stream": {
            "names": ["bench"],
            "endpoints": ["tcp://127.0.0.1:*"],
            "fields": {
                "x": {"dtype": "float32", "shape": [_FIELDS]},
                "y": {"dtype": "int64", "shape": []},
            },
        },
        "buffer": {"policy": "fifo", "capacity_samples": 4096},
        "model": {"name": "mlp", "options": {"hidden": [width, width]}},
        "objective": {"name": "classify", "options": {"classes": _CLASSES}},
        "strategies": [
            {"name": "replay", "options": {"samples_per_step": _REPLAYED_SAMPLES}, "memory": memory}
        ],
        "trainer": {"batch_size": _BATCH_SAMPLES, "threads": 1, "device": "cpu"},
        "http": {"port": 0},
    }


def measure(rounds: int, seconds: float) -> list[Comparison]:
    """Steps per second for a short and a longer step."""
    torch.set_num_threads(1)
    keep_freed_memory()
    comparisons = []
    for step_seconds, target in TARGETS.items():
        width = width_for(step_seconds)
        bare = BareLoop(width)
        service = FedService(_config(width), shape=(_FIELDS,), classes=_CLASSES, rows=64)
        floors, ours = [], []
        for _ in range(rounds):
            floors.append(bare.steps_per_second(seconds))
            ours.append(service.steps_per_second(seconds))
        name = f"training, steps of {step_seconds * 1e3:g} ms"
        comparisons.append(compare(name, "steps/s", ours, floors, target=target, at_least=True))
    return comparisons


def main(arguments: list[str]) -> int:
    """Print the table; the exit code is 0 whatever it says."""
    parser = argparse.ArgumentParser(prog="insitu bench training", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    given = parser.parse_args(arguments)
    print_table("training", measure(given.rounds, given.seconds))
    return 0
