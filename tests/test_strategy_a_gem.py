"""A-GEM and layer-wise A-GEM: what a step does, against the paper's formula in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from insitu.batch import Batch, Column
from insitu.component import catalogue
from insitu.criterion import Criterion
from insitu.memory.reservoir import Reservoir
from insitu.objectives.regress import Regress
from insitu.schema import Schema
from insitu.strategies.a_gem import AGEM
from insitu.strategies.base import Observation
from insitu.strategies.layerwise_a_gem import LayerwiseAGEM
from insitu.trainer import Trainer
from learning import Setup, generator, make_batch, make_memory, make_model, make_objective, stream

SCHEMA = Schema.of({"x": ("float64", (3,)), "y": ("float64", (2,))})


def linear(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[nn.Linear, Criterion]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Linear(3, 2, dtype=dtype)
    return model, Criterion(model, Regress(SCHEMA))


def rows(count: int, seed: int, task: int = 0) -> Batch:
    """Every other task has the opposite map, so that tasks conflict."""
    random = generator(seed)
    x = torch.randn(count, 3, generator=random, dtype=torch.float64)
    of_task = torch.randn(3, 2, generator=generator(9), dtype=torch.float64) * 3 * (-1) ** task
    return Batch.of({"x": x, "y": x @ of_task}, task=task)


def reservoir(capacity: int = 64) -> Reservoir:
    return Reservoir(capacity, torch.device("cpu"), generator(0))


def by_hand(weight: Tensor, bias: Tensor, batch: Batch) -> list[Tensor]:
    """The gradient of the mean over rows and elements of (xW' + b - y)^2, written out."""
    x, y = batch.fields["x"], batch.fields["y"]
    residual = x @ weight.double().T + bias.double() - y
    scale = 2.0 / residual.numel()
    return [scale * residual.T @ x, scale * residual.sum(0)]


def projected(g: list[Tensor], r: list[Tensor]) -> list[Tensor]:
    """Eq. 11 of the paper, over all tensors as one vector."""
    product = sum(float((a * b).sum()) for a, b in zip(g, r, strict=True))
    square = sum(float((b * b).sum()) for b in r)
    return [a - min(0.0, product) / square * b for a, b in zip(g, r, strict=True)]


def layer_by_layer(g: list[Tensor], r: list[Tensor]) -> list[Tensor]:
    return [projected([a], [b])[0] for a, b in zip(g, r, strict=True)]


Reference = Callable[[list[Tensor], list[Tensor]], list[Tensor]]


@pytest.mark.parametrize(("kind", "formula"), [(AGEM, projected), (LayerwiseAGEM, layer_by_layer)])
def test_a_step_is_that_of_the_paper(kind: type[AGEM], formula: Reference) -> None:
    """The whole memory is drawn, so the reference gradient is known."""
    changed = 0
    for seed in range(12):
        model, criterion = linear(seed)
        memory, former, fresh = reservoir(), rows(20, 1, task=0), rows(8, seed + 50, task=1)
        memory.add(former)
        strategy = kind(criterion, memory, reference_samples=20)
        weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
        trainer = Trainer(
            model,
            criterion.objective,
            torch.optim.SGD(model.parameters(), lr=1.0),
            strategies=[strategy],
        )
        trainer.step(fresh)
        plain = by_hand(weight, bias, fresh)
        expected = formula(plain, by_hand(weight, bias, former))
        changed += not torch.allclose(plain[0], expected[0])
        for before, after, step in zip(
            (weight, bias), (model.weight, model.bias), expected, strict=True
        ):
            torch.testing.assert_close(
                (before - after).double().detach(), step, rtol=1e-4, atol=1e-5
            )
    assert changed >= 3, "the tasks must conflict for this test to see anything"


@pytest.mark.parametrize("kind", [AGEM, LayerwiseAGEM])
def test_the_gradient_agrees_with_the_reference_afterwards(kind: type[AGEM]) -> None:
    for seed in range(20):
        model, criterion = linear(seed)
        memory, former, fresh = reservoir(), rows(20, 1, task=0), rows(8, seed + 50, task=1)
        memory.add(former)
        strategy = kind(criterion, memory, reference_samples=20)
        strategy.augment(fresh)
        criterion.losses(fresh).mean().backward()
        strategy.adjust_gradients()
        r = criterion.gradient(former)
        g = [p.grad.double() for p in model.parameters() if p.grad is not None]
        products = torch.stack([(a * b).sum() for a, b in zip(g, r, strict=True)])
        scale = (
            torch.stack([b.norm() for b in r]).norm() * torch.stack([a.norm() for a in g]).norm()
        )
        assert products.sum() >= -1e-6 * scale
        if kind is LayerwiseAGEM:
            assert (products >= -1e-6 * scale).all()


def test_the_first_task_is_learned_as_without_it() -> None:
    plain, with_it = Setup().trainer(), Setup(strategies=("a_gem",)).trainer()
    for batch in stream("classify", 10):
        assert plain.step(batch).loss.item() == with_it.step(batch).loss.item()
    assert with_it.strategies["a_gem"].metrics()["constrained_steps"] == 0.0


def test_a_stream_without_tasks_is_held_to_the_whole_memory() -> None:
    model, criterion = linear()
    strategy = AGEM(criterion, reservoir(), reference="memory")
    trainer = Trainer(
        model,
        criterion.objective,
        torch.optim.SGD(model.parameters(), lr=0.1),
        strategies=[strategy],
    )
    for seed in range(12):
        trainer.step(rows(2, seed))
    assert strategy.metrics()["constrained_steps"] == 11.0
    assert float(strategy.metrics()["projected_share"]) > 0.0


def test_interleaved_tasks_are_held_to_those_that_are_not_in_the_batch() -> None:
    """A reference of zero for the other task: what counts is what was drawn of it."""
    _, criterion = linear()
    memory = reservoir()
    memory.add(rows(10, 0, task=0))
    memory.add(rows(10, 1, task=1))
    strategy = AGEM(criterion, memory, reference_samples=20)
    both = rows(2, 2, task=0).joined(rows(2, 3, task=1))
    strategy.augment(Batch(both.fields, both.provenance, 4))
    strategy.adjust_gradients()
    assert strategy.metrics()["constrained_steps"] == 0.0
    strategy.augment(Batch(both.fields, both.provenance, 2))  # the others are replayed
    strategy.adjust_gradients()
    assert strategy.metrics()["constrained_steps"] == 1.0


def test_the_memory_sees_each_fresh_row_once_with_its_loss() -> None:
    memory = make_memory()
    objective = make_objective("classify")
    strategy = AGEM(Criterion(make_model(objective), objective), memory)
    batch = make_batch("classify", 6, seed=0)
    trained = batch.joined(make_batch("classify", 3, seed=1))
    losses = torch.arange(9.0)
    strategy.observe(Observation(trained, torch.zeros(9, 4), losses, 1, last=False))
    assert len(memory) == 0
    strategy.observe(Observation(trained, torch.zeros(9, 4), losses, 1))
    assert len(memory) == 6
    assert memory.last_loss.tolist() == losses[:6].tolist()
    assert torch.equal(memory.provenance[:, Column.ROW], torch.arange(6))


def test_looking_at_the_memory_is_not_replaying_it() -> None:
    trainer = Setup(strategies=("a_gem",)).trainer()
    for task in range(2):
        for batch in stream("classify", 3, task=task):
            trainer.step(batch)
    strategy = trainer.strategies["a_gem"]
    assert isinstance(strategy, AGEM)
    assert not strategy.memory.times_replayed.any()
    assert trainer.step(make_batch("classify", 3, seed=9, task=2)).replayed_samples == 0


def test_a_reference_of_zero_leaves_the_gradient() -> None:
    model, criterion = linear()
    memory, fresh = reservoir(), rows(4, 1, task=1)
    x = rows(8, 0).fields["x"]
    with torch.no_grad():
        y = model(x.float()).double()
    memory.add(Batch.of({"x": x, "y": y}, task=0))  # fitted exactly
    strategy = AGEM(criterion, memory)
    strategy.augment(fresh)
    criterion.losses(fresh).mean().backward()
    before = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    strategy.adjust_gradients()
    for parameter, gradient in zip(model.parameters(), before, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("where", ["fresh", "memory"])
@pytest.mark.parametrize("name", ["a_gem", "layerwise_a_gem", "gec", "gem"])
def test_what_is_not_finite_is_refused_and_leaves_the_weights(name: str, where: str) -> None:
    trainer = Setup(strategies=(name,), normalise=False).trainer()
    bad = make_batch("classify", 7, seed=1, task=0)
    bad.fields["x"][0, 0] = torch.nan
    good = make_batch("classify", 7, seed=2, task=1)
    trainer.step(make_batch("classify", 7, seed=3, task=0))
    if where == "memory":
        losses = torch.zeros(7)
        trainer.strategies[name].observe(Observation(bad, torch.zeros(7, 4), losses, 1))
    before = [parameter.detach().clone() for parameter in trainer.module.parameters()]
    report = trainer.step(good if where == "memory" else bad)
    assert report.skipped
    for parameter, weight in zip(trainer.module.parameters(), before, strict=True):
        assert torch.equal(parameter, weight)


class TwoHeads(nn.Module):
    """One head for each sign of the first input: the loss does not reach the other's weights."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList([nn.Linear(3, 2), nn.Linear(3, 2)])

    def forward(self, x: Tensor) -> Tensor:
        head: Tensor = self.heads[int(x[0, 0] > 0)](x)
        return head


@pytest.mark.parametrize("name", ["a_gem", "layerwise_a_gem", "gec", "gem"])
def test_weights_that_the_loss_does_not_reach_do_not_matter(name: str) -> None:
    model = TwoHeads()
    criterion = Criterion(model, Regress(SCHEMA))
    parts = {
        "criterion": criterion,
        "memory": reservoir(),
        "device": torch.device("cpu"),
        "generator": generator(0),
    }
    strategy = catalogue("insitu.strategies")[name].build({}, parts)
    former, fresh = rows(6, 0, task=0), rows(6, 1, task=1)
    former.fields["x"][:, 0] = -1.0
    fresh.fields["x"][:, 0] = 1.0
    trainer = Trainer(
        model,
        criterion.objective,
        torch.optim.SGD(model.parameters(), lr=0.1),
        strategies=[strategy],
    )
    trainer.step(former)
    before = model.heads[1].weight.detach().clone()
    assert not trainer.step(fresh).skipped
    assert not torch.equal(model.heads[1].weight, before)
