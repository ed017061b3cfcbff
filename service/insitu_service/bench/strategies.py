"""Strategies: a trainer's step against the bare loop on the same number of samples.

The loop that anybody would write (forward, cross entropy, backward, SGD) on a 784-400-400-10
perceptron, with as many rows and passes as the method needs by its paper: 64 fresh rows; 64 more
where it replays; a second backward pass for A-GEM; one for every former task for GEM. Everything
lies in memory already. Rounds alternate, and the ratio of each is taken.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from insitu.batch import Batch
from insitu.config import check_config
from insitu.models.build import build_model
from insitu.trainer import Trainer
from insitu_service.bench.comparison import Comparison, compare, in_turn, print_table
from insitu_service.learning.building import build_trainer
from insitu_service.supervision.heap import keep_freed_memory

_INPUTS, _HIDDEN, _CLASSES = 784, [400, 400], 10
_ROWS = 64
_BATCHES = 32
_MEMORY_SAMPLES = 5_000


@dataclass(frozen=True)
class Case:
    """One strategy, what the bare loop does for it, and how much more it may cost.

    Args:
        passes: rows of each forward and backward pass of the bare loop.
        tasks: tasks that end before the measurement.
    """

    name: str
    passes: tuple[int, ...]
    target: float
    options: dict[str, Any] = field(default_factory=dict)
    memory: dict[str, Any] | None = None
    tasks: int = 1


def _reservoir() -> dict[str, Any]:
    return {"name": "reservoir", "capacity_samples": _MEMORY_SAMPLES}


CASES = (
    Case("naive", (_ROWS,), 1.05),
    Case("replay", (2 * _ROWS,), 1.10, {"samples_per_step": _ROWS}, _reservoir()),
    Case("der_pp", (2 * _ROWS,), 1.20, {"samples_per_step": _ROWS // 2}, _reservoir()),
    Case("online_ewc", (_ROWS,), 1.15),
    Case("si", (_ROWS,), 1.15),
    Case("mas", (_ROWS,), 1.15),
    Case("a_gem", (_ROWS, _ROWS), 1.15, {"reference_samples": _ROWS}, _reservoir()),
    Case("gem", (_ROWS,) * 4, 2.0, {"reference_samples": _ROWS}, tasks=3),
)


def _rows(rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    x = torch.rand(rows, _INPUTS, generator=generator)
    return x, torch.randint(0, _CLASSES, (rows,), generator=generator)


def bare_loop(passes: Sequence[int]) -> Callable[[int], None]:
    """Runs so many steps; a step makes the passes in turn and one update."""
    model = build_model("mlp", {"hidden": _HIDDEN}, (_INPUTS,), (_CLASSES,), seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(0)
    batches = [[_rows(rows, generator) for rows in passes] for _ in range(_BATCHES)]

    def run(steps: int) -> None:
        for step in range(steps):
            for x, y in batches[step % _BATCHES]:
                optimizer.zero_grad(set_to_none=True)
                torch.nn.functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    return run


def trainer_of(case: Case) -> Trainer:
    """As the service builds it, with this strategy alone."""
    strategies = []
    if case.name != "naive":
        strategies = [{"name": case.name, "options": case.options}]
        if case.memory is not None:
            strategies[0]["memory"] = case.memory
    config = {
        "stream": {
            "names": ["bench"],
            "endpoints": ["tcp://127.0.0.1:*"],
            "fields": {
                "x": {"dtype": "float32", "shape": [_INPUTS]},
                "y": {"dtype": "int64", "shape": []},
            },
        },
        "model": {"name": "mlp", "options": {"hidden": _HIDDEN}},
        "objective": {"name": "classify", "options": {"classes": _CLASSES}},
        "optimizer": {"name": "SGD", "options": {"lr": 0.01}},
        "strategies": strategies,
        "trainer": {"batch_size": _ROWS, "device": "cpu"},
        "http": {"port": 0},
    }
    return build_trainer(check_config(config), torch.device("cpu"))


def measured_loop(case: Case) -> Callable[[int], None]:
    """Runs so many steps of a trainer that has learned the case's tasks before."""
    trainer = trainer_of(case)
    generator = torch.Generator().manual_seed(0)

    def batch(task: int) -> Batch:
        x, y = _rows(_ROWS, generator)
        return Batch.of({"x": x, "y": y}, task=task)

    for task in range(case.tasks):
        for _ in range(10):
            trainer.step(batch(task))
        trainer.end_task(task)
    batches = [batch(case.tasks) for _ in range(_BATCHES)]

    def run(steps: int) -> None:
        for step in range(steps):
            trainer.step(batches[step % _BATCHES])

    return run


def milliseconds(run: Callable[[int], None], steps: int) -> Callable[[], float]:
    """Of one step, over so many."""

    def measure() -> float:
        began = time.perf_counter()
        run(steps)
        return (time.perf_counter() - began) / steps * 1e3

    return measure


def measure(
    rounds: int, steps: int = 100, names: Sequence[str] = (), threads: int = 2
) -> list[Comparison]:
    """Milliseconds a step against the bare loop's, for every case (or those named)."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    comparisons = []
    for case in CASES:
        if names and case.name not in names:
            continue
        ours, floor = measured_loop(case), bare_loop(case.passes)
        for warm in (ours, floor):
            warm(20)
        times, floors = in_turn(rounds, milliseconds(ours, steps), milliseconds(floor, steps))
        comparisons.append(
            compare(case.name, "ms", times, floors, target=case.target, at_least=False)
        )
    return comparisons


def main(arguments: list[str]) -> int:
    """Print the table; the exit code is 0 whatever it says."""
    parser = argparse.ArgumentParser(prog="insitu bench strategies", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=100, help="of each measurement")
    parser.add_argument("--threads", type=int, default=2, help="of torch, on both sides")
    parser.add_argument("names", nargs="*", help="of the cases; all by default")
    given = parser.parse_args(arguments)
    print_table("strategies", measure(given.rounds, given.steps, given.names, given.threads))
    return 0
