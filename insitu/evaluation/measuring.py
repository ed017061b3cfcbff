"""What measuring a model on held-out rows gives, and who can do it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from insitu.batch import Batch


@dataclass(frozen=True)
class Evaluation:
    """How a model did on held-out rows.

    Args:
        samples: rows that were measured.
        loss: mean loss per sample; NaN without rows.
        scores: the objective's figures over all rows.
    """

    samples: int
    loss: float
    scores: Mapping[str, float]

    def figures(self) -> dict[str, float]:
        """Loss and scores under one roof, by name."""
        return {"loss": self.loss, **self.scores}


class Evaluator(Protocol):
    """Whoever can measure held-out rows; in the service the `Trainer`."""

    def evaluate(self, batch: Batch) -> Evaluation: ...


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, the former mode of every submodule after."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
