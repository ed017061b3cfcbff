"""A small Hebbian network, images for it, and a trainer of both, for several tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from insitu.batch import Batch
from insitu.component import catalogue
from insitu.criterion import Criterion
from insitu.layers.hebbian import HebbianLayer
from insitu.models.build import build_model
from insitu.models.hebbian import Hebbian
from insitu.objectives.base import Objective
from insitu.schema import Schema
from insitu.strategies.base import Strategy
from insitu.trainer import Trainer
from learning import generator, make_memory

SHAPE = (2, 8, 6)
CONVOLUTION = {"kernels": 7, "kernel_size": 3, "eta": 0.08, "pool": {"kind": "max", "size": 2}}
DENSE = {"kernels": 11, "eta": 0.02}
SCHEMA = Schema.of({"x": ("float32", SHAPE), "y": ("int64", ())})
CLASSES = 3


def make(
    input_shape: tuple[int, ...] = SHAPE,
    output_shape: tuple[int, ...] = (CLASSES,),
    *,
    seed: int = 0,
    **options: Any,
) -> Hebbian:
    options = {"blocks": [CONVOLUTION, DENSE], **options}
    if "network" in options:
        del options["blocks"]
    model = build_model("hebbian", options, input_shape, output_shape, seed=seed)
    assert isinstance(model, Hebbian)
    return model


def layers(model: nn.Module) -> list[HebbianLayer]:
    return [part for part in model.modules() if isinstance(part, HebbianLayer)]


def fields(rows: int, seed: int, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.rand(rows, *shape, generator=generator(seed))


def batch(seed: int, rows: int = 6, task: int = 0) -> Batch:
    """Noise, and of each class a quarter that is brighter."""
    x = fields(rows, seed)
    y = torch.randint(0, CLASSES, (rows,), generator=generator(100 + seed))
    for row, label in enumerate(y.tolist()):
        x[row, :, 4 * (label // 2) :, 3 * (label % 2) :][:, :4, :3] += 1.0
    return Batch.of({"x": x, "y": y}, task=task)


def objective(name: str, **options: Any) -> Objective:
    made: Objective = catalogue("insitu.objectives")[name].build(
        {"classes": CLASSES, **options}, {"schema": SCHEMA}
    )
    return made


def trainer(
    *,
    strategies: tuple[str, ...] = (),
    goal: Objective | None = None,
    options: Any = None,
    seed: int = 0,
    learning_rate: float = 0.1,
    **further: Any,
) -> Trainer:
    """A trainer of the Hebbian network, with strategies on a small memory each."""
    goal = goal or objective("classify")
    model = goal.network(make(SHAPE, goal.output_shape, seed=seed, **(options or {})))
    optimizer = torch.optim.SGD(model.named_parameters(), lr=learning_rate, momentum=0.9)
    parts = {
        "model": model,
        "objective": goal,
        "normaliser": None,
        "criterion": Criterion(model, goal, None),
        "optimizer": optimizer,
        "device": torch.device("cpu"),
        "schema": SCHEMA,
    }
    made: list[Strategy] = []
    for index, name in enumerate(strategies):
        live = {**parts, "generator": generator(index), "memory": make_memory(32, index)}
        made.append(catalogue("insitu.strategies")[name].build(STRATEGIES[name], live))
    return Trainer(model, goal, optimizer, strategies=made, **further)


STRATEGIES: dict[str, dict[str, Any]] = {
    "replay": {"samples_per_step": 4},
    "online_ewc": {"strength": 5.0, "fisher_samples": 10},
    "a_gem": {"reference_samples": 8},
    "kernel_plasticity": {"top": 2},
    "lwf": {},
    "mir": {"samples_per_step": 2, "candidates": 8},
}


def plasticity(model: nn.Module) -> list[bool]:
    return [layer.plastic for layer in layers(model)]


def counts(model: nn.Module) -> list[int]:
    return [int(layer.updates) for layer in layers(model)]
