"""Small learning set-ups that several tests share: streams, models, trainers, states."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from insitu.batch import Batch
from insitu.component import catalogue
from insitu.criterion import Criterion
from insitu.errors import OperatorError
from insitu.layers.block import HebbianBlock
from insitu.layers.learning_rates import AdaptiveRates
from insitu.layers.linear import HebbianLinear
from insitu.layers.rules.softhebb import SoftHebb
from insitu.memory.base import Memory
from insitu.models.conditional_flow import ConditionalFlow
from insitu.normalisation import Normaliser
from insitu.objectives.base import Objective
from insitu.objectives.density import Density
from insitu.optimization import build_optimizer, build_schedule
from insitu.schema import Schema
from insitu.strategies.base import Strategy
from insitu.trainer import Trainer

INPUTS, CLASSES = 6, 4

LABELLED = Schema.of({"x": ("float32", (INPUTS,)), "y": ("int64", ())})

OBJECTIVES: dict[str, tuple[Schema, dict[str, Any]]] = {
    "classify": (LABELLED, {"classes": CLASSES}),
    "regress": (
        Schema.of({"x": ("float64", (INPUTS,)), "y": ("float32", (3,))}),
        {},
    ),
    "reconstruct": (Schema.of({"x": ("float32", (INPUTS,))}), {}),
    "growing_classify": (LABELLED, {"classes": CLASSES}),
    "multi_head": (LABELLED, {"heads": 3, "classes": CLASSES}),
    "nearest_class_mean": (LABELLED, {"classes": CLASSES, "features": 4}),
    "contrastive": (
        LABELLED,
        {"classes": CLASSES, "features": 5, "projection": 3, "temperature": 0.5},
    ),
    "task_heads": (LABELLED, {"heads": 3, "classes": CLASSES, "features": 5}),
    "density": (Schema.of({"x": ("float32", (INPUTS,))}), {}),
}


def make_objective(name: str) -> Objective:
    schema, options = OBJECTIVES[name]
    objective: Objective = catalogue("insitu.objectives")[name].build(options, {"schema": schema})
    return objective


#: strategies that need a model with Hebbian layers
HEBBIAN = {"kernel_plasticity"}


def make_model(
    objective: Objective, seed: int = 0, *, dropout: float = 0.0, hebbian: bool = False
) -> nn.Module:
    """Two dense layers; with `hebbian` the first one learns without a gradient."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if isinstance(objective, Density):  # any other network would give no normalised density
            return ConditionalFlow(
                objective.input_shape, (1,), conditions=0, layers=2, hidden=(8,), bins=4
            )
        inputs = objective.input_shape[0]
        first: list[nn.Module] = [nn.Linear(inputs, 8), nn.Tanh()]
        if hebbian:
            layer = HebbianLinear(inputs, 8, SoftHebb(), AdaptiveRates(0.05), radius=5.0)
            first = [HebbianBlock(layer)]
        last = nn.Linear(8, math.prod(objective.output_shape))
        layers: list[nn.Module] = [*first, nn.Dropout(dropout), last]
        if len(objective.output_shape) > 1:
            layers.append(nn.Unflatten(1, objective.output_shape))
        return objective.network(nn.Sequential(*layers))


def make_memory(capacity: int = 64, seed: int = 1) -> Memory:
    parts = {
        "capacity_samples": capacity,
        "device": torch.device("cpu"),
        "generator": generator(seed),
    }
    memory: Memory = catalogue("insitu.memory")["reservoir"].build({}, parts)
    return memory


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


#: options under which a strategy does something within a few small batches; those that are not
#: here do so by default
LIVELY: dict[str, dict[str, Any]] = {
    "replay": {"samples_per_step": 5},
    "online_ewc": {"strength": 10.0, "fisher_samples": 20},
    "kernel_plasticity": {"top": 2},
}


def make_strategy(
    name: str,
    model: nn.Module,
    objective: Objective,
    normaliser: Normaliser | None = None,
    *,
    seed: int = 1,
    memory_samples: int = 64,
) -> Strategy:
    parts = {
        "model": model,
        "objective": objective,
        "normaliser": normaliser,
        "criterion": Criterion(model, objective, normaliser),
        "optimizer": torch.optim.SGD(model.named_parameters(), lr=0.1),
        "device": torch.device("cpu"),
        "schema": next(
            schema
            for other, (schema, _) in OBJECTIVES.items()
            if type(make_objective(other)) is type(objective)
        ),
        "generator": generator(seed),
        "memory": make_memory(memory_samples, seed),
    }
    component = catalogue("insitu.strategies")[name]
    strategy: Strategy = component.build(LIVELY.get(name, {}), parts)
    return strategy


def is_defined(strategy: str, objective: str) -> bool:
    """Whether a strategy works with an objective; else it must say so, naming both."""
    made, hebbian = make_objective(objective), strategy in HEBBIAN
    if hebbian and isinstance(made, Density):  # features that are learned so have no density
        return False
    try:
        make_strategy(strategy, make_model(made, hebbian=hebbian), made)
    except OperatorError as error:
        if strategy in str(error) and type(made).__name__ in str(error):
            return False
        raise
    return True


@dataclass
class Setup:
    """What a trainer is made of, all seeded, by plain choices."""

    objective: str = "classify"
    strategies: Sequence[str] = ()
    normalise: bool = True
    optimizer: str = "AdamW"
    learning_rate: float = 0.01
    schedule: str | None = "ExponentialLR"
    dropout: float = 0.0
    seed: int = 0
    memory_samples: int = 64
    #: a model with a Hebbian layer, also where no strategy needs one
    hebbian: bool = False
    #: makes strategies that are not of the catalogue, from the model
    further: Callable[[nn.Module], list[Strategy]] = lambda model: []

    def trainer(self, **options: Any) -> Trainer:
        objective = make_objective(self.objective)
        hebbian = self.hebbian or not HEBBIAN.isdisjoint(self.strategies)
        model = make_model(objective, self.seed, dropout=self.dropout, hebbian=hebbian)
        schema = OBJECTIVES[self.objective][0]
        normaliser = Normaliser(schema, objective.statistics_of) if self.normalise else None
        strategies = [
            make_strategy(
                name,
                model,
                objective,
                normaliser,
                seed=self.seed + i + 1,
                memory_samples=self.memory_samples,
            )
            for i, name in enumerate(self.strategies)
        ]
        strategies += self.further(model)
        optimizer = build_optimizer(
            self.optimizer, model.named_parameters(), {"lr": self.learning_rate}
        )
        rate = {"gamma": 0.99} if self.schedule else {}
        schedule = build_schedule(self.schedule, optimizer, rate, warmup_steps=2)
        return Trainer(
            model,
            objective,
            optimizer,
            schedule=schedule,
            strategies=strategies,
            normaliser=normaliser,
            **options,
        )


def make_batch(objective: str, rows: int, seed: int, *, task: int = 0) -> Batch:
    """Random rows whose targets depend on the inputs and on the task."""
    random = generator(seed)
    x = torch.randn(rows, INPUTS, generator=random) * 2.0 + 1.0
    if "y" in OBJECTIVES[objective][0] and objective != "regress":
        y = (x[:, :2] > 1.0).long() @ torch.tensor([1, 2])
        return Batch.of({"x": x, "y": (y + task) % CLASSES}, task=task)
    if objective == "regress":
        return Batch.of({"x": x.double(), "y": (x[:, :3] * x[:, 3:] + task)}, task=task)
    if objective == "density":  # each half tells of the other, or there is nothing to learn
        x = torch.cat((x[:, :3], x[:, :3] + 0.2 * x[:, 3:]), dim=1)
    return Batch.of({"x": x}, task=task)


def stream(objective: str, batches: int, rows: int = 7, *, task: int = 0) -> Iterator[Batch]:
    for number in range(batches):
        yield make_batch(objective, rows, seed=1000 * task + number, task=task)


def copied(state: Any) -> Any:
    """A state with tensors of its own, as a checkpoint would hold it."""
    return mapped(state, lambda tensor: tensor.detach().clone())


def mapped(state: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(state, Tensor):
        return change(state)
    if isinstance(state, Mapping):
        assert all(isinstance(key, str) for key in state), f"keys are strings: {list(state)}"
        return {key: mapped(value, change) for key, value in state.items()}
    if isinstance(state, list):
        return [mapped(value, change) for value in state]
    assert state is None or isinstance(state, bool | int | float | str), type(state)
    return state


def assert_same(one: Any, other: Any, where: str = "state") -> None:
    """Bit by bit, dtypes included."""
    assert type(one) is type(other), where
    if isinstance(one, Tensor):
        assert one.dtype == other.dtype, where
        assert one.shape == other.shape, where
        assert torch.equal(bits(one), bits(other)), where
    elif isinstance(one, Mapping):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}[{index}]")
    else:
        assert one == other, where


def bits(tensor: Tensor) -> Tensor:
    """Comparable where NaN equals NaN."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)
