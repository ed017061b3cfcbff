"""Memory aware synapses against a plain loop over samples."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from insitu.batch import Batch
from insitu.criterion import Criterion
from insitu.strategies.base import Observation
from insitu.strategies.mas import MAS
from learning import generator, make_batch, make_model, make_objective


def make(**options: Any) -> tuple[MAS, nn.Module]:
    objective = make_objective("classify")
    model = make_model(objective)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return MAS(Criterion(model, objective), optimizer, generator(0), **options), model


def observe(strategy: MAS, batch: Batch) -> None:
    strategy.observe(Observation(batch, torch.zeros(batch.rows, 4), torch.zeros(batch.rows), 1))


def sensitivity(model: nn.Module, batch: Batch, rows_at_once: int = 1) -> dict[str, Tensor]:
    """mean |d mean |f(x)|^2 / d w| over parts of so many rows."""
    named = dict(model.named_parameters())
    starts = range(0, batch.rows, rows_at_once)
    sums = {name: torch.zeros_like(p) for name, p in named.items()}
    for start in starts:
        lengths = (model(batch.fields["x"][start : start + rows_at_once]) ** 2).sum(1)
        gradients = torch.autograd.grad(lengths.mean(), list(named.values()))
        for name, gradient in zip(named, gradients, strict=True):
            sums[name] += gradient.abs() / len(starts)
    return sums


@pytest.mark.parametrize(("how", "rows_at_once"), [("exact", 1), ("batch_mean", 4)])
def test_importance_is_the_loop_over_samples_and_adds_up(how: str, rows_at_once: int) -> None:
    strategy, model = make(sensitivity=how, batch_samples=4, decay=0.5)
    batches = [make_batch("classify", 12, seed=task, task=task) for task in range(2)]
    expected: dict[str, Tensor] = {}
    for task, batch in enumerate(batches):
        observe(strategy, batch)
        strategy.end_task(task)
        for name, value in sensitivity(model, batch, rows_at_once).items():
            expected[name] = value + 0.5 * expected[name] if task else value
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.1)
    for name, value in expected.items():
        torch.testing.assert_close(strategy.importance[name], value, rtol=1e-5, atol=1e-6)
        assert value.max() > 1e-3


def test_labels_are_not_read() -> None:
    (strategy, _), (other, _) = make(), make()
    batch = make_batch("classify", 12, seed=0)
    observe(strategy, batch)
    observe(other, batch.with_fields({**batch.fields, "y": torch.zeros_like(batch.fields["y"])}))
    for each in (strategy, other):
        each.end_task(0)
    assert all(torch.equal(f, other.importance[n]) for n, f in strategy.importance.items())


def test_tasks_side_by_side_have_samples_of_their_own() -> None:
    strategy, model = make()
    own, other = (make_batch("classify", 8, seed=task, task=task) for task in range(2))
    observe(strategy, other)
    observe(strategy, own)
    strategy.end_task(0)
    for name, value in sensitivity(model, own).items():
        torch.testing.assert_close(strategy.importance[name], value, rtol=1e-5, atol=1e-6)


def test_without_tasks_it_moves_every_so_many_batches() -> None:
    strategy, model = make(every_steps=2, decay=0.9)
    first, second = (make_batch("classify", 6, seed=seed) for seed in range(2))
    observe(strategy, first)
    assert not strategy.importance
    observe(strategy, second)
    assert strategy.consolidations == 1
    both = first.joined(second)
    for name, value in sensitivity(model, both).items():
        torch.testing.assert_close(strategy.importance[name], value, rtol=1e-5, atol=1e-6)
