"""Replay: adding to and sampling a large memory, as a share of the step that it is part of."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from insitu.batch import Batch
from insitu.component import find
from insitu.memory.base import Memory
from insitu.models.build import build_model
from insitu_service.bench.comparison import Comparison, compare, in_turn, print_table
from insitu_service.supervision.heap import keep_freed_memory

_CAPACITY_SAMPLES = 100_000
_SHAPE = (3, 32, 32)
_CLASSES = 10
_SAMPLES = 32
#: those that need no further pass through the model
_MEMORIES = ("reservoir", "class_balanced", "task_balanced", "ring_per_class", "loss_aware")
TARGET = 0.05


def _batch(rows: int, generator: torch.Generator) -> Batch:
    labels = torch.randint(0, _CLASSES, (rows,), generator=generator)
    return Batch.of({"x": torch.rand(rows, *_SHAPE, generator=generator), "y": labels})


def _filled_memory(name: str) -> Memory:
    """A memory that has seen twice what it holds, so that adding is replacing."""
    generator = torch.Generator().manual_seed(0)
    parts = {
        "capacity_samples": _CAPACITY_SAMPLES,
        "device": torch.device("cpu"),
        "generator": generator,
    }
    memory: Memory = find("insitu.memory", name).build({}, parts)
    batch = _batch(1000, generator)
    for _ in range(2 * _CAPACITY_SAMPLES // 1000):
        memory.add(batch)
    return memory


def _step() -> Callable[[], None]:
    """A plain training step of the small convolutional classifier on fresh and replayed rows."""
    model = build_model("conv_classifier", {}, _SHAPE, (_CLASSES,), seed=0)
    optimizer = torch.optim.AdamW(model.parameters())
    batch = _batch(2 * _SAMPLES, torch.Generator().manual_seed(1))

    def step() -> None:
        loss = torch.nn.functional.cross_entropy(model(batch.fields["x"]), batch.fields["y"])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _replay(memory: Memory) -> Callable[[], None]:
    batch = _batch(_SAMPLES, torch.Generator().manual_seed(2))
    losses = torch.rand(_SAMPLES)

    def replay() -> None:
        memory.sample(_SAMPLES)
        memory.add(batch, losses)

    return replay


def _seconds(work: Callable[[], None], times: int) -> Callable[[], float]:
    def measure() -> float:
        began = time.perf_counter()
        for _ in range(times):
            work()
        return (time.perf_counter() - began) / times * 1e3

    return measure


def measure(rounds: int) -> list[Comparison]:
    """Milliseconds of adding and sampling against those of the step, for every memory."""
    torch.set_num_threads(1)
    keep_freed_memory()
    step = _step()
    comparisons = []
    for name in _MEMORIES:
        replay = _replay(_filled_memory(name))
        for warm in (step, replay):
            _seconds(warm, 10)()
        ours, floors = in_turn(rounds, _seconds(replay, 100), _seconds(step, 20))
        figure = f"{name}: add {_SAMPLES} and sample {_SAMPLES} of {_CAPACITY_SAMPLES:,}"
        comparisons.append(compare(figure, "ms", ours, floors, target=TARGET, at_least=False))
    return comparisons


def main(arguments: list[str]) -> int:
    """Print the table; the exit code is 0 whatever it says."""
    parser = argparse.ArgumentParser(prog="insitu bench replay", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    print_table("replay", measure(parser.parse_args(arguments).rounds))
    return 0
