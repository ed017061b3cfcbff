"""Online EWC against a plain loop over samples, and against the quadratic it can be solved for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from insitu.batch import Batch, Column, SampleFlag
from insitu.criterion import Criterion
from insitu.errors import OperatorError
from insitu.normalisation import Normaliser
from insitu.objectives.base import Objective
from insitu.objectives.regress import Regress
from insitu.schema import Schema
from insitu.strategies.base import Observation
from insitu.strategies.fisher import fisher_diagonal
from insitu.strategies.online_ewc import OnlineEWC
from insitu.trainer import Trainer
from learning import (
    OBJECTIVES,
    assert_same,
    copied,
    generator,
    make_batch,
    make_model,
    make_objective,
)


def observe(strategy: OnlineEWC, batch: Batch, step: int = 1) -> None:
    strategy.observe(Observation(batch, torch.zeros(batch.rows, 1), torch.zeros(batch.rows), step))


def loop_over_samples(
    model: nn.Module, objective: Objective, batch: Batch, rows_at_once: int = 1
) -> dict[str, Tensor]:
    """The plain reference: one backward a sample (or a batch), squares, mean."""
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters() if name in names}
    starts = range(0, batch.rows, rows_at_once)
    for start in starts:
        rows = slice(start, start + rows_at_once)
        part = Batch({n: t[rows] for n, t in batch.fields.items()}, batch.provenance[rows], 0)
        model.zero_grad()
        objective.losses(objective.predict(model, part), part).mean().backward()
        for name, parameter in model.named_parameters():
            if name in total and parameter.grad is not None:
                total[name] += parameter.grad.square()
    return {name: value / len(starts) for name, value in total.items()}


#: objectives with a loss of their own for every row
ROW_BY_ROW = [name for name in OBJECTIVES if make_objective(name).row_by_row]


@pytest.mark.parametrize("objective_name", ROW_BY_ROW)
@pytest.mark.parametrize("workspace_bytes", [1, 3000, 2**28], ids=["ones", "chunks", "whole"])
def test_exact_fisher_is_the_loop_over_samples(objective_name: str, workspace_bytes: int) -> None:
    objective = make_objective(objective_name)
    model, batch = make_model(objective), make_batch(objective_name, 23, seed=0)
    # some objectives have no loss before they saw a class
    objective.observe(objective.predict(model, batch).detach(), batch)
    found = fisher_diagonal(model, objective, batch, workspace_bytes=workspace_bytes)
    expected = loop_over_samples(model, objective, batch)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)
    assert max(value.max().item() for value in expected.values()) > 1e-4


def test_batch_mean_fisher_is_the_loop_over_batches() -> None:
    objective = make_objective("classify")
    model, batch = make_model(objective), make_batch("classify", 24, seed=0)
    found = fisher_diagonal(model, objective, batch, estimate="batch_mean", batch_rows=8)
    expected = loop_over_samples(model, objective, batch, rows_at_once=8)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)
    exact = fisher_diagonal(model, objective, batch)
    assert all((found[name].mean() < exact[name].mean()).item() for name in found)


class Convolutions(nn.Module):
    """Layers that a model of one's own may have: statistics of the batch, dropout, ties."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(3, 2)
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.norm(self.convolution(x)))
        head: Tensor = self.head(self.dropout(hidden.mean(dim=(2, 3)))) * self.frozen
        return head


def test_fisher_of_a_model_with_batch_statistics_and_dropout() -> None:
    torch.manual_seed(0)
    schema = Schema.of({"x": ("float32", (1, 4, 4)), "y": ("float32", (2,))})
    objective, model = Regress(schema), Convolutions()
    batch = Batch.of({"x": torch.randn(9, 1, 4, 4), "y": torch.randn(9, 2)})
    model(batch.fields["x"])
    buffers = copied(dict(model.named_buffers()))
    found = fisher_diagonal(model, objective, batch)
    assert "frozen" not in found
    assert model.training
    assert model.dropout.training
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, buffers[name])
    model.eval()
    for name, value in loop_over_samples(model, objective, batch).items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


def made_for(
    model: nn.Module, objective: Objective, normaliser: Normaliser | None = None, **options: Any
) -> OnlineEWC:
    criterion = Criterion(model, objective, normaliser)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return OnlineEWC(criterion, optimizer, generator(0), **options)


def make(**options: Any) -> tuple[OnlineEWC, nn.Module, Objective]:
    objective = make_objective("regress")
    model = make_model(objective)
    return made_for(model, objective, **options), model, objective


def test_importance_decays_and_adds_up_and_the_anchor_is_the_latest() -> None:
    strategy, model, objective = make(decay=0.5)
    first, second = make_batch("regress", 11, seed=1), make_batch("regress", 13, seed=2, task=1)
    observe(strategy, first)
    strategy.end_task(0)
    fisher_first = loop_over_samples(model, objective, first)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    observe(strategy, second)
    strategy.end_task(1)
    fisher_second = loop_over_samples(model, objective, second)
    for name, parameter in model.named_parameters():
        expected = 0.5 * fisher_first[name] + fisher_second[name]
        torch.testing.assert_close(strategy.importance[name], expected, rtol=1e-5, atol=1e-6)
        assert torch.equal(strategy.anchor[name], parameter)


def test_penalty_is_the_formula_and_so_is_its_gradient() -> None:
    strategy, model, _ = make(strength=7.0, apply="gradient")
    batch = make_batch("regress", 11, seed=1)
    assert "penalty" not in strategy.metrics()
    observe(strategy, batch)
    strategy.end_task(0)
    torch.manual_seed(1)
    moves = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(moves[name])
    model.zero_grad()
    strategy.adjust_gradients()
    penalty = torch.as_tensor(strategy.metrics()["penalty"])
    expected = 3.5 * sum((strategy.importance[n] * m.square()).sum() for n, m in moves.items())
    torch.testing.assert_close(penalty, torch.as_tensor(expected))
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        gradient = 7.0 * strategy.importance[name] * moves[name]
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-5)


def test_two_quadratic_tasks_meet_where_the_closed_form_says() -> None:
    """loss_t = (w - c_t)^2 on x = 1: gradient 2 (w - c_t), Fisher the mean of its square.

    Task 0 has targets 0 +- 1, so w ends at 0 with F = 4. Task 1 has target 3; with strength s its
    loss (w - 3)^2 + s/2 * 4 w^2 has its minimum at w = 3 / (1 + 2 s).
    """
    schema = Schema.of({"x": ("float32", (1,)), "y": ("float32", (1,))})
    model, objective = nn.Linear(1, 1, bias=False), Regress(schema)
    strategy = made_for(model, objective, strength=0.25)
    trainer = Trainer(
        model, objective, torch.optim.SGD(model.parameters(), lr=0.1), strategies=[strategy]
    )
    for task, targets in enumerate([[1.0, -1.0], [3.0, 3.0]]):
        fields = {"x": torch.ones(2, 1), "y": torch.tensor(targets)[:, None]}
        for _ in range(200):
            trainer.step(Batch.of(fields, task=task))
        if task == 0:
            assert model.weight.item() == pytest.approx(0.0, abs=1e-6)
            trainer.end_task(0)
            assert strategy.importance["weight"].item() == pytest.approx(4.0, rel=1e-5)
    assert model.weight.item() == pytest.approx(3.0 / 1.5, rel=1e-5)


def test_the_fisher_is_taken_on_normalised_fresh_rows_of_the_ended_task() -> None:
    schema, _ = OBJECTIVES["regress"]
    objective = make_objective("regress")
    model = make_model(objective)
    normaliser = Normaliser(schema, objective.statistics_of)
    strategy = made_for(model, objective, normaliser)
    own, other = make_batch("regress", 9, seed=1), make_batch("regress", 9, seed=2, task=1)
    normaliser.update(own)
    observe(strategy, own.joined(make_batch("regress", 5, seed=3)))
    observe(strategy, other)
    strategy.end_task(0)
    expected = loop_over_samples(model, objective, normaliser.normalise(own))
    for name, value in expected.items():
        torch.testing.assert_close(strategy.importance[name], value, rtol=1e-5, atol=1e-6)


def test_rows_that_may_not_be_kept_are_not_kept() -> None:
    strategy, _, _ = make()
    batch = make_batch("regress", 4, seed=1)
    batch.provenance[:, Column.FLAGS] = SampleFlag.NO_REPLAY
    observe(strategy, batch)
    strategy.end_task(0)
    assert strategy.consolidations == 0


def test_a_task_without_samples_changes_nothing() -> None:
    strategy, _, _ = make()
    observe(strategy, make_batch("regress", 4, seed=1))
    strategy.end_task(0)
    before = copied(strategy.state_dict())
    strategy.end_task(0)
    strategy.end_task(5)
    assert strategy.consolidations == 1
    for part in ("importance", "anchor"):
        assert all(torch.equal(strategy.state_dict()[part][n], t) for n, t in before[part].items())


def test_the_samples_behind_the_fisher_are_bounded() -> None:
    strategy, _, _ = make(fisher_samples=6)
    for step in range(5):
        observe(strategy, make_batch("regress", 9, seed=step))
    (kept,) = strategy.state_dict()["samples"]["tasks"]
    assert len(kept["provenance"]) == 6
    assert kept["seen"] == 45


def test_metrics_tell_the_distance_from_the_anchor() -> None:
    strategy, model, _ = make()
    assert strategy.metrics() == {"consolidations": 0.0}
    observe(strategy, make_batch("regress", 4, seed=1))
    strategy.end_task(0)
    with torch.no_grad():
        next(model.parameters())[0, 0] += 2.0
    assert float(strategy.metrics()["distance"]) == pytest.approx(2.0, rel=1e-5)


def test_a_state_of_another_model_is_refused_by_name() -> None:
    strategy, _, _ = make()
    observe(strategy, make_batch("regress", 4, seed=1))
    strategy.end_task(0)
    saved = strategy.state_dict()
    saved["anchor"] = {"weight": torch.zeros(2)}
    with pytest.raises(
        OperatorError, match=r"online_ewc.anchor is for parameters {'weight': \[2\]}"
    ):
        strategy.load_state_dict(saved)


def test_without_tasks_importance_and_anchor_move_as_one_decayed_sum_of_quadratics() -> None:
    strategy, model, objective = make(every_steps=2, decay=0.5)
    kept = []
    for window in range(3):
        rows = [make_batch("regress", 5, seed=10 * window + i) for i in range(2)]
        for step, batch in enumerate(rows):
            observe(strategy, batch, step)
        fields = {name: torch.cat([b.fields[name] for b in rows]) for name in rows[0].fields}
        weights = {name: p.detach().clone() for name, p in model.named_parameters()}
        kept.append((loop_over_samples(model, objective, Batch.of(fields)), weights))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1)
    shares = [0.25, 0.25, 0.5]
    for name in strategy.importance:
        total = sum(share * f[name] for share, (f, _) in zip(shares, kept, strict=True))
        pull = sum(share * f[name] * w[name] for share, (f, w) in zip(shares, kept, strict=True))
        torch.testing.assert_close(strategy.importance[name], total, rtol=1e-4, atol=1e-7)
        anchored = strategy.importance[name] * strategy.anchor[name]
        torch.testing.assert_close(anchored, pull, rtol=1e-4, atol=1e-6)
    assert strategy.consolidations == 3


def test_without_tasks_ends_of_tasks_change_nothing() -> None:
    strategy, _, _ = make(every_steps=5)
    observe(strategy, make_batch("regress", 4, seed=1))
    strategy.end_task(0)
    assert strategy.consolidations == 0


def test_without_tasks_a_resumed_run_goes_on_as_it_would_have() -> None:
    strategy, _, _ = make(every_steps=3, fisher_samples=4)
    other, _, _ = make(every_steps=3, fisher_samples=4)
    for step in range(4):
        observe(strategy, make_batch("regress", 5, seed=step))
    other.load_state_dict(copied(strategy.state_dict()))
    for step in range(4, 9):
        observe(strategy, make_batch("regress", 5, seed=step))
        observe(other, make_batch("regress", 5, seed=step))
    assert strategy.consolidations == 3
    assert_same(copied(other.state_dict()), copied(strategy.state_dict()))
