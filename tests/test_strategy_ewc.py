"""EWC in constant memory against the naive sum over all former tasks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from insitu.batch import Batch
from insitu.criterion import Criterion
from insitu.objectives.base import Objective
from insitu.strategies.base import Observation
from insitu.strategies.ewc import EWC
from learning import copied, generator, make_batch, make_model, make_objective


def make(**options: Any) -> tuple[EWC, nn.Module, Objective]:
    objective = make_objective("regress")
    model = make_model(objective)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return EWC(Criterion(model, objective), optimizer, generator(0), **options), model, objective


def fisher(model: nn.Module, objective: Objective, batch: Batch) -> list[Tensor]:
    """One backward a sample, squares, mean."""
    parameters = list(model.parameters())
    total = [torch.zeros_like(p) for p in parameters]
    for row in range(batch.rows):
        part = batch.select(slice(row, row + 1), 1)
        outputs = model(part.fields["x"].float())
        loss = objective.losses(outputs, part).sum()
        for value, gradient in zip(total, torch.autograd.grad(loss, parameters), strict=True):
            value += gradient.square() / batch.rows
    return total


def test_it_is_the_naive_sum_over_tasks() -> None:
    strategy, model, objective = make(strength=3.0, apply="gradient")
    parameters, kept = list(model.parameters()), []
    torch.manual_seed(1)
    for task in range(4):
        batch = make_batch("regress", 9, seed=task, task=task)
        strategy.observe(Observation(batch, torch.zeros(9, 3), torch.zeros(9), task))
        kept.append((fisher(model, objective, batch), [p.detach().clone() for p in parameters]))
        strategy.end_task(task)
        with torch.no_grad():
            for parameter in parameters:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    terms = [
        1.5 * (f * (w - a).square()).sum()
        for importance, anchors in kept
        for f, w, a in zip(importance, parameters, anchors, strict=True)
    ]
    expected = torch.stack(terms).sum()
    gradients = torch.autograd.grad(expected, parameters)
    model.zero_grad()
    penalty = torch.as_tensor(strategy.metrics()["penalty"])
    torch.testing.assert_close(penalty, expected.detach(), rtol=1e-4, atol=0.0)
    strategy.adjust_gradients()
    for parameter, gradient in zip(parameters, gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-5)


def test_its_state_does_not_grow_with_the_tasks() -> None:
    strategy, _, _ = make()
    sizes = []
    for task in range(3):
        batch = make_batch("regress", 9, seed=task, task=task)
        strategy.observe(Observation(batch, torch.zeros(9, 3), torch.zeros(9), task))
        strategy.end_task(task)
        tensors: list[Tensor] = []
        mapped_tensors(copied(strategy.state_dict()), tensors)
        sizes.append(sum(tensor.numel() for tensor in tensors))
    assert sizes[0] == sizes[1] == sizes[2]


def mapped_tensors(state: Any, found: list[Tensor]) -> None:
    if isinstance(state, Tensor):
        found.append(state)
    elif isinstance(state, dict):
        for value in state.values():
            mapped_tensors(value, found)
    elif isinstance(state, list):
        for value in state:
            mapped_tensors(value, found)


@pytest.mark.parametrize("estimate", ["exact", "drawn", "batch_mean"])
def test_every_estimate_gives_importance_of_its_own(estimate: str) -> None:
    strategy, _, _ = make(fisher=estimate)
    other, _, _ = make(fisher="exact")
    batch = make_batch("regress", 64, seed=0)
    for each in (strategy, other):
        each.observe(Observation(batch, torch.zeros(64, 3), torch.zeros(64), 1))
        each.end_task(0)
    same = all(torch.equal(f, other.importance[name]) for name, f in strategy.importance.items())
    assert same == (estimate == "exact")
    assert all(f.min() >= 0 for f in strategy.importance.values())
