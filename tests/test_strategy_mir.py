"""MIR: what it chooses against a plain reference, and that the model itself does not move."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from insitu.batch import Batch, Column
from insitu.criterion import Criterion
from insitu.memory.base import Memory
from insitu.strategies.mir import MaximallyInterferedRetrieval
from learning import (
    assert_same,
    copied,
    make_batch,
    make_memory,
    make_model,
    make_objective,
    mapped,
)
from stepwise import cross_entropies, with_bias


def mir(
    model: nn.Module, memory: Memory, objective: str = "classify", **options: Any
) -> MaximallyInterferedRetrieval:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    criterion = Criterion(model, make_objective(objective))
    return MaximallyInterferedRetrieval(memory, criterion, optimizer, **options)


def filled(objective: str, rows: int = 40) -> tuple[Memory, Batch]:
    memory, batch = make_memory(rows), make_batch(objective, rows, seed=3)
    memory.add(batch)
    return memory, batch


def reference(model: nn.Linear, fresh: Batch, old: Batch, rate: float) -> Tensor:
    """(rows,) in float64: the rise of the cross entropy of old rows by a step on fresh ones."""
    weights = torch.cat([model.weight, model.bias[:, None]], 1).detach().double()
    weights.requires_grad_()
    x, y = with_bias(fresh.fields["x"]), fresh.fields["y"]
    loss = cross_entropies(x @ weights.T, y).mean()
    (gradient,) = torch.autograd.grad(loss, weights)
    x, y = with_bias(old.fields["x"]), old.fields["y"]
    after = cross_entropies(x @ (weights - rate * gradient).T, y)
    return (after - cross_entropies(x @ weights.T, y)).detach()


@pytest.mark.parametrize("given", [None, 0.02])
def test_the_rise_is_that_of_a_virtual_step(given: float | None) -> None:
    model = nn.Linear(6, 4)
    memory, old = filled("classify")
    strategy = mir(model, memory, virtual_learning_rate=given)
    fresh = make_batch("classify", 8, seed=9)
    expected = reference(model, fresh, old, rate=0.5 if given is None else given)
    rise = strategy.interference(fresh, old)
    torch.testing.assert_close(rise.double(), expected, rtol=1e-4, atol=2e-6)


def test_the_rows_that_would_suffer_most_are_replayed() -> None:
    model = nn.Linear(6, 4)
    memory, old = filled("classify")
    strategy = mir(model, memory, samples_per_step=6, candidates=40)
    fresh = make_batch("classify", 8, seed=9)
    expected = reference(model, fresh, old, rate=0.5)
    augmented = strategy.augment(fresh)
    assert (augmented.fresh_rows, augmented.rows) == (8, 14)
    chosen = augmented.column(Column.ROW)[8:].tolist()
    assert sorted(chosen) == sorted(expected.topk(6).indices.tolist())
    for row, source in enumerate(chosen, start=8):
        assert torch.equal(augmented.fields["x"][row], old.fields["x"][source])
    figures = {name: float(value) for name, value in strategy.metrics().items()}
    assert figures["interference_mean"] == pytest.approx(expected.mean().item(), rel=1e-3)
    assert figures["interference_chosen"] == pytest.approx(
        expected.topk(6).values.mean().item(), rel=1e-3
    )


def test_only_what_is_replayed_counts_as_replayed() -> None:
    memory, _ = filled("classify")
    strategy = mir(nn.Linear(6, 4), memory, samples_per_step=6, candidates=20)
    strategy.augment(make_batch("classify", 8, seed=9))
    assert int(memory.times_replayed.sum()) == 6


def test_candidates_are_a_draw_of_their_own_each_time() -> None:
    memory, _ = filled("classify")
    strategy = mir(nn.Linear(6, 4), memory, samples_per_step=4, candidates=8)
    fresh = make_batch("classify", 8, seed=9)
    drawn = {tuple(strategy.augment(fresh).column(Column.ROW)[8:].tolist()) for _ in range(10)}
    assert len(drawn) > 5


def test_a_memory_without_choice_is_drawn_whole() -> None:
    memory, _ = filled("classify", rows=5)
    strategy = mir(nn.Linear(6, 4), memory, samples_per_step=6, candidates=20)
    rows = strategy.augment(make_batch("classify", 8, seed=9)).column(Column.ROW)[8:]
    assert sorted(rows.tolist()) == list(range(5))


@pytest.mark.parametrize("objective", ["classify", "regress", "reconstruct"])
def test_the_model_stays_as_it_is_bit_by_bit(objective: str) -> None:
    made = make_objective(objective)
    model = nn.Sequential(nn.BatchNorm1d(6), make_model(made, dropout=0.3))
    memory, _ = filled(objective)
    strategy = mir(model, memory, objective, samples_per_step=6, candidates=40)
    before = copied(dict(model.state_dict()))
    strategy.augment(make_batch(objective, 8, seed=9))
    assert_same(copied(dict(model.state_dict())), before)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(part.training for part in model.modules())


def test_it_follows_the_weights_of_the_model() -> None:
    model = nn.Linear(6, 4)
    memory, old = filled("classify")
    strategy = mir(model, memory)
    fresh = make_batch("classify", 8, seed=9)
    first = strategy.interference(fresh, old)
    with torch.no_grad():
        model.weight.mul_(-1.0)
    expected = reference(model, fresh, old, rate=0.5)
    second = strategy.interference(fresh, old)
    torch.testing.assert_close(second.double(), expected, rtol=1e-4, atol=2e-6)
    assert not torch.allclose(first, second)


def test_memory_on_another_dtype_layout_is_untouched() -> None:
    memory, old = filled("regress")
    before = mapped(dict(old.fields), lambda tensor: tensor.clone())
    objective = make_objective("regress")
    strategy = mir(make_model(objective), memory, "regress", samples_per_step=6, candidates=40)
    augmented = strategy.augment(make_batch("regress", 8, seed=9))
    assert augmented.fields["x"].dtype == torch.float64
    assert_same(dict(old.fields), before)
