"""A small trainer with everything that a service puts around it, for streams without end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import torch

from insitu.batch import Batch
from insitu.component import catalogue
from insitu.criterion import Criterion
from insitu.detection import DriftWatch
from insitu.evaluation import EvaluationMatrix
from insitu.evaluation.prequential import Prequential
from insitu.trainer import Trainer
from learning import HEBBIAN, LIVELY, OBJECTIVES, generator, make_batch, make_model, make_objective

#: what makes the prequential figures add up: counted at its multiples, they hold the same
WINDOW_STEPS = 50


@dataclass
class LongRun:
    """A trainer, and the figures that a service keeps of what it does."""

    trainer: Trainer
    prequential: Prequential
    matrix: EvaluationMatrix

    def step(self, batch: Batch) -> None:
        report = self.trainer.step(batch)
        self.prequential.count(batch, report)

    def feed(self, steps: int, rows: int) -> None:
        """Train so many batches of one endless task; measure it now and then."""
        for number, batch in enumerate(islice(cycle(batches(rows)), steps), 1):
            self.step(batch)
            if number % WINDOW_STEPS == 0:
                self.matrix.observe({0: 0.5}, self.prequential.tasks)

    def begin(self) -> None:
        """A first task comes and goes, so that what strategies keep of ended tasks is there."""
        self.feed(2, 16)
        self.trainer.end_task(0)
        self.matrix.record(0, {0: 0.5})


def batches(rows: int) -> list[Batch]:
    return [make_batch("classify", rows, seed=seed) for seed in range(8)]


def long_run(
    strategy: str | None = None, *, memory: str = "reservoir", watch: bool = False
) -> LongRun:
    """Made of components by their names.

    Args:
        memory: where the strategy remembers, if it does.
        watch: with all detectors, in a cooldown that never ends.
    """
    objective = make_objective("classify")
    model = make_model(objective, hebbian=watch or strategy in HEBBIAN)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    parts: dict[str, Any] = {
        "capacity_samples": 100,
        "criterion": Criterion(model, objective),
        "device": torch.device("cpu"),
        "model": model,
        "normaliser": None,
        "objective": objective,
        "optimizer": optimizer,
        "schema": OBJECTIVES["classify"][0],
    }
    strategies = []
    if strategy is not None:
        parts["memory"] = _built("memory", memory, parts)
        strategies.append(_built("strategies", strategy, parts, LIVELY.get(strategy, {})))
    names = catalogue("insitu.detection") if watch else ()
    detectors = [(_built("detection", name, parts), 1 << 40) for name in names]
    return LongRun(
        Trainer(
            model,
            objective,
            optimizer,
            strategies=strategies,
            watch=DriftWatch(detectors) if detectors else None,
        ),
        Prequential("accuracy", window_steps=WINDOW_STEPS),
        EvaluationMatrix("accuracy", higher_is_better=True),
    )


def _built(
    kind: str, name: str, parts: Mapping[str, Any], options: Mapping[str, Any] | None = None
) -> Any:
    component = catalogue(f"insitu.{kind}")[name]
    return component.build(options or {}, {**parts, "generator": generator(1)})
