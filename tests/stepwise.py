"""Single steps of a strategy under a linear model, for comparison with a reference in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from insitu.batch import Batch, Column
from insitu.criterion import Criterion
from insitu.memory.base import Memory
from insitu.objectives.base import Objective
from insitu.strategies.base import Observation, Strategy
from insitu.trainer import Trainer
from learning import make_batch, make_memory, make_objective

LEARNING_RATE = 0.1


@dataclass
class Parts:
    """What strategies are made of."""

    memory: Memory
    objective: Objective
    criterion: Criterion
    optimizer: torch.optim.Optimizer


@dataclass
class Step:
    """One update: the rows that were trained, and the weights (output, input + bias) around it."""

    batch: Batch
    before: Tensor
    after: Tensor
    penalty: float

    @property
    def fresh(self) -> int:
        return self.batch.fresh_rows

    @property
    def inputs(self) -> Tensor:
        """(rows, inputs + 1) float64, the last one 1 for the bias."""
        return with_bias(self.batch.fields["x"])

    @property
    def labels(self) -> Tensor:
        return self.batch.fields["y"]

    @property
    def ids(self) -> list[int]:
        return [int(n) for n in self.batch.column(Column.SAMPLE_ID)]


class Recorder(Strategy):
    name = "recorder"

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def observe(self, observation: Observation) -> None:
        self.batches.append(observation.batch)


def with_bias(x: Tensor) -> Tensor:
    return torch.cat([x.double(), torch.ones(len(x), 1, dtype=torch.float64)], 1)


def flat(model: nn.Linear) -> Tensor:
    return torch.cat([model.weight, model.bias[:, None]], 1).detach().double()


def numbered(objective: str, batches: int, rows: int) -> Iterator[Batch]:
    """Batches of two tasks whose sample ids are all different."""
    for number in range(batches):
        batch = make_batch(objective, rows, seed=number, task=2 * number // batches)
        batch.provenance[:, Column.SAMPLE_ID] += number * rows
        yield batch


def steps(
    make: Callable[[Parts], Strategy],
    *,
    objective: str = "classify",
    batches: int = 6,
    rows: int = 8,
    capacity: int = 20,
    updates_per_batch: int = 1,
) -> list[Step]:
    """Train, and tell every update."""
    made = make_objective(objective)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Linear(made.input_shape[0], made.output_shape[0])
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    parts = Parts(make_memory(capacity), made, Criterion(model, made), optimizer)
    strategy, recorder = make(parts), Recorder()
    trainer = Trainer(
        model,
        made,
        optimizer,
        strategies=[strategy, recorder],
        updates_per_batch=updates_per_batch,
    )
    found = []
    for batch in numbered(objective, batches, rows):
        before = flat(model)
        report = trainer.step(batch)
        penalty = float(report.penalties.get(strategy.name, 0.0))
        found.append(Step(recorder.batches[-1], before, flat(model), penalty))
    return found


def assert_descends(step: Step, loss: Callable[[Tensor], Tensor]) -> None:
    """The step is one of plain gradient descent on this loss of the weights."""
    weights = step.before.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(weights), weights)
    assert gradient.abs().max() > 1e-4, "a step that does nothing would prove nothing"
    expected = step.before - LEARNING_RATE * gradient
    torch.testing.assert_close(step.after, expected, rtol=2e-5, atol=2e-6)


def cross_entropies(logits: Tensor, labels: Tensor, classes: list[int] | None = None) -> Tensor:
    """(rows,) by its definition: log of the sum over the classes, less the label's logit."""
    chosen = list(range(logits.shape[1])) if classes is None else classes
    losses = [
        torch.log(sum(torch.exp(row[c]) for c in chosen)) - row[int(label)]  # type: ignore[arg-type]
        for row, label in zip(logits, labels, strict=True)
    ]
    return torch.stack(losses)
