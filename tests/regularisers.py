"""A float64 model whose gradients are set by hand, for strategies that pull weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from insitu.batch import Batch
from insitu.criterion import Criterion
from insitu.objectives.regress import Regress
from insitu.schema import Schema
from insitu.strategies.anchored import Anchored
from insitu.strategies.base import Observation

SCHEMA = Schema.of({"x": ("float32", (3,)), "y": ("float32", (2,))})


class ByHand:
    """Steps of SGD with given gradients, in the order of the trainer."""

    def __init__(
        self,
        make: Callable[[Criterion, torch.optim.Optimizer], Anchored],
        *,
        learning_rate: float = 0.1,
    ) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.module = nn.Linear(3, 2).double()
        self.parameters = list(self.module.parameters())
        self.optimizer = torch.optim.SGD(self.parameters, lr=learning_rate)
        self.strategy = make(Criterion(self.module, Regress(SCHEMA)), self.optimizer)
        self._steps = 0

    def step(self, gradients: list[Tensor], *, task: int = 0, learned: bool = True) -> None:
        """One update; without `learned` one that the trainer skips."""
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        self.strategy.adjust_gradients()
        if learned:
            self.optimizer.step()
            self.strategy.adjust_weights()
            self.strategy.observe(observation(task, self._steps))
        self._steps += 1

    def weights(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self.parameters]


def observation(task: int, step: int = 0, rows: int = 2) -> Observation:
    random = torch.Generator().manual_seed(step)
    fields = {
        "x": torch.randn(rows, 3, generator=random),
        "y": torch.randn(rows, 2, generator=random),
    }
    batch = Batch.of(fields, task=task)
    return Observation(batch, torch.zeros(rows, 2), torch.zeros(rows), step)


def random_gradients(count: int, seed: int = 0) -> Iterator[list[Tensor]]:
    random = torch.Generator().manual_seed(seed)
    for _ in range(count):
        yield [
            torch.randn(shape, generator=random, dtype=torch.float64) for shape in ((2, 3), (2,))
        ]


def assert_close(found: Any, expected: Any) -> None:
    """Of float64 tensors, one a parameter."""
    found = list(found.values()) if isinstance(found, dict) else list(found)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
