"""GEC: its floors, against the constrained problem written out in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from insitu.batch import Batch
from insitu.criterion import Criterion
from insitu.memory.reservoir import Reservoir
from insitu.objectives.regress import Regress
from insitu.schema import Schema
from insitu.strategies.gec import GEC
from insitu.strategies.gradient_stack import Per
from insitu.trainer import Trainer
from learning import generator

SCHEMA = Schema.of({"x": ("float64", (3,)), "y": ("float64", (2,))})


def linear(seed: int = 0) -> tuple[nn.Linear, Criterion]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Linear(3, 2)
    return model, Criterion(model, Regress(SCHEMA))


def rows(count: int, seed: int, sign: float = 1.0) -> Batch:
    x = torch.randn(count, 3, generator=generator(seed), dtype=torch.float64)
    of_task = torch.randn(3, 2, generator=generator(100), dtype=torch.float64)
    return Batch.of({"x": x, "y": sign * x @ of_task}, task=int(sign > 0))


def by_hand(weights: list[Tensor], batch: Batch) -> tuple[float, list[Tensor]]:
    """The mean over rows and elements of (xW' + b - y)^2 and its gradient, written out."""
    x, y = batch.fields["x"], batch.fields["y"]
    residual = x @ weights[0].double().T + weights[1].double() - y
    scale = 2.0 / residual.numel()
    loss = float(residual.square().mean())
    return loss, [scale * residual.T @ x, scale * residual.sum(0)]


def constrained(
    g: list[Tensor], r: list[Tensor], loss: float, tolerance: float, strength: float, rate: float
) -> list[Tensor]:
    """argmin |x - g|^2 with <x, r> >= floor, over all tensors as one vector."""
    product = sum(float((a * b).sum()) for a, b in zip(g, r, strict=True))
    square = sum(float((b * b).sum()) for b in r)
    floor = strength * square if loss > tolerance else -rate * (tolerance - loss)
    amount = max(0.0, floor - product) / square
    return [a + amount * b for a, b in zip(g, r, strict=True)]


def step(
    tolerance: float, strength: float, rate: float, per: Per = "network", seed: int = 0
) -> tuple[list[Tensor], list[Tensor], list[Tensor], float]:
    """g, r, the step that was made, the loss on the memory."""
    model, criterion = linear(seed)
    memory = Reservoir(64, torch.device("cpu"), generator(0))
    former, fresh = rows(20, 1), rows(8, seed + 50, sign=-1.0)
    memory.add(former)
    strategy = GEC(
        criterion,
        memory,
        tolerance=tolerance,
        strength=strength,
        rate=rate,
        per=per,
        reference_samples=20,
    )
    before = [p.detach().clone() for p in model.parameters()]
    Trainer(
        model,
        criterion.objective,
        torch.optim.SGD(model.parameters(), lr=1.0),
        strategies=[strategy],
    ).step(fresh)
    loss, r = by_hand(before, former)
    made = [
        (was - now.detach()).double() for was, now in zip(before, model.parameters(), strict=True)
    ]
    assert float(strategy.metrics()["memory_loss"]) == pytest.approx(loss, rel=1e-5)
    return by_hand(before, fresh)[1], r, made, loss


@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize("rate", [0.0, 0.05, 1.0])
@pytest.mark.parametrize("tolerance", [0.0, 0.5, 1.9, 6.0])
def test_a_step_solves_the_constrained_problem(
    tolerance: float, strength: float, rate: float
) -> None:
    for seed in range(4):
        g, r, made, loss = step(tolerance, strength, rate, seed=seed)
        expected = constrained(g, r, loss, tolerance, strength, rate)
        for found, wanted in zip(made, expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_above_the_tolerance_the_memory_is_paid_back_below_it_nearly_ignored() -> None:
    g, r, made, loss = step(tolerance=0.0, strength=1.0, rate=1.0)
    assert loss > 0.0
    product = sum(float((a * b).sum()) for a, b in zip(made, r, strict=True))
    assert product >= sum(float((b * b).sum()) for b in r) * (1 - 1e-5)
    g, r, made, loss = step(tolerance=1e6, strength=1.0, rate=1.0)
    for found, wanted in zip(made, g, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tolerance", [0.0, 6.0])
def test_by_tensor_every_tensor_has_its_share_of_the_floor(tolerance: float) -> None:
    g, r, made, loss = step(tolerance, strength=1.0, rate=0.05, per="tensor")
    total = sum(float((b * b).sum()) for b in r)
    for gradient, reference, found in zip(g, r, made, strict=True):
        square = float((reference * reference).sum())
        floor = square if loss > tolerance else -0.05 * (tolerance - loss) * square / total
        amount = max(0.0, floor - float((gradient * reference).sum())) / square
        torch.testing.assert_close(found, gradient + amount * reference, rtol=1e-4, atol=1e-5)


def test_a_loss_above_the_tolerance_comes_down_though_fresh_rows_conflict() -> None:
    losses = {}
    for tolerance in (0.02, 1e6):
        model, criterion = linear()
        memory = Reservoir(64, torch.device("cpu"), generator(0))
        memory.add(rows(40, 1))
        strategy = GEC(criterion, memory, tolerance=tolerance)
        trainer = Trainer(
            model,
            criterion.objective,
            torch.optim.SGD(model.parameters(), lr=0.03),
            strategies=[strategy],
            updates_per_batch=100,
        )
        trainer.step(rows(8, 7, sign=-1.0))
        losses[tolerance] = by_hand([p.detach() for p in model.parameters()], rows(40, 1))[0]
    assert losses[0.02] < 0.3 < 2.0 < losses[1e6]


def test_an_empty_memory_changes_nothing() -> None:
    _, criterion = linear()
    strategy = GEC(criterion, Reservoir(8, torch.device("cpu"), generator(0)))
    strategy.augment(rows(3, 0))
    strategy.adjust_gradients()
    assert strategy.metrics()["constrained_steps"] == 0.0
