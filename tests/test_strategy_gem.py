"""GEM: its steps against a brute-force active set in float64, and its memory of every task."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from insitu.batch import Batch, Column, SampleFlag
from insitu.criterion import Criterion
from insitu.errors import OperatorError
from insitu.objectives.regress import Regress
from insitu.schema import Schema
from insitu.strategies.base import Observation
from insitu.strategies.gem import GEM
from insitu.trainer import Trainer
from learning import assert_same, copied, generator

SCHEMA = Schema.of({"x": ("float64", (4,)), "y": ("float64", (2,))})
CPU = torch.device("cpu")

Matrix = npt.NDArray[np.float64]


def linear(seed: int = 0) -> tuple[nn.Linear, Criterion]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Linear(4, 2)
    return model, Criterion(model, Regress(SCHEMA))


def rows(count: int, task: int, seed: int = 0, sign: float = 1.0) -> Batch:
    """A linear map of its own for every task."""
    random = generator(1000 * task + seed)
    x = torch.randn(count, 4, generator=random, dtype=torch.float64)
    of_task = torch.randn(4, 2, generator=generator(task), dtype=torch.float64) * 3
    return Batch.of({"x": x, "y": sign * x @ of_task}, task=task)


def remember(strategy: GEM, batch: Batch) -> None:
    losses = torch.zeros(batch.rows)
    strategy.observe(Observation(batch, torch.zeros(batch.rows, 2), losses, 1))


def by_hand(weights: list[Tensor], batch: Batch) -> list[Matrix]:
    """The gradient of the mean over rows and elements of (xW' + b - y)^2, written out."""
    x, y = batch.fields["x"], batch.fields["y"]
    residual = x @ weights[0].double().T + weights[1].double() - y
    scale = 2.0 / residual.numel()
    return [(scale * residual.T @ x).flatten().numpy(), (scale * residual.sum(0)).numpy()]


def nearest(gradient: Matrix, references: Matrix, margin: float) -> Matrix:
    """Eq. 8 to 11 over all active sets: of all v >= margin the least 1/2 v'RR'v + (Rg)'v."""
    if (references @ gradient >= 0).all():
        return gradient
    k = len(references)
    gram, slopes = references @ references.T, references @ gradient
    best, least = gradient, np.inf
    for size in range(k + 1):
        for free in combinations(range(k), size):
            v, chosen = np.full(k, margin), list(free)
            if chosen:
                fixed = gram[chosen] @ np.where(np.isin(np.arange(k), chosen), 0.0, v)
                v[chosen] = np.linalg.solve(gram[np.ix_(chosen, chosen)], -slopes[chosen] - fixed)
            value = v @ gram @ v / 2 + slopes @ v
            if (v >= margin - 1e-12).all() and value < least:
                best, least = gradient + v @ references, value
    return best


@pytest.mark.parametrize("per", ["network", "tensor"])
@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_a_step_is_the_solution_by_brute_force(per: str, margin: float) -> None:
    """The whole memory is drawn, so the reference gradients are known."""
    changed = 0
    for seed in range(8):
        model, criterion = linear(seed)
        strategy = GEM(
            criterion,
            CPU,
            generator(0),
            capacity_samples=64,
            most_tasks=4,
            margin=margin,
            per="tensor" if per == "tensor" else "network",
        )
        former = [rows(12, task) for task in range(3)]
        for batch in former:
            remember(strategy, batch)
        fresh = rows(8, 0, seed + 50, sign=-1.0)
        fresh.provenance[:, Column.TASK] = 3  # what task 0 was, with its sign turned
        before = [p.detach().clone() for p in model.parameters()]
        trainer = Trainer(
            model,
            criterion.objective,
            torch.optim.SGD(model.parameters(), lr=1.0),
            strategies=[strategy],
        )
        trainer.step(fresh)
        g, r = by_hand(before, fresh), [by_hand(before, batch) for batch in former]
        if per == "network":
            flat = nearest(np.concatenate(g), np.stack([np.concatenate(k) for k in r]), margin)
            expected = np.split(flat, [8])
        else:
            expected = [nearest(g[i], np.stack([k[i] for k in r]), margin) for i in range(2)]
        changed += not np.allclose(np.concatenate(expected), np.concatenate(g))
        for was, parameter, step in zip(before, model.parameters(), expected, strict=True):
            found = (was - parameter.detach()).double().flatten().numpy()
            np.testing.assert_allclose(found, step, rtol=1e-4, atol=2e-5)
    assert changed >= 6, "the tasks must conflict for this test to see anything"


def test_the_gradient_agrees_with_every_former_task_afterwards() -> None:
    for seed in range(10):
        model, criterion = linear(seed)
        strategy = GEM(criterion, CPU, generator(0), capacity_samples=200, margin=0.0)
        former = [rows(12, task) for task in range(8)]  # more than are solved by enumeration
        for batch in former:
            remember(strategy, batch)
        fresh = rows(8, 9, seed)
        strategy.augment(fresh)
        criterion.losses(fresh).mean().backward()
        before = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        strategy.adjust_gradients()
        after = [p.grad for p in model.parameters() if p.grad is not None]
        scale = torch.cat([part.flatten() for part in before]).double().norm()
        for batch in former:
            r = criterion.gradient(batch)
            product = sum((a.double() * b.double()).sum() for a, b in zip(after, r, strict=True))
            length = torch.cat([part.flatten() for part in r]).double().norm()
            assert float(product) >= -1e-6 * float(scale * length)


def test_only_tasks_that_are_not_in_the_fresh_rows_constrain() -> None:
    _, criterion = linear()
    strategy = GEM(criterion, CPU, generator(0))
    for task in range(2):
        remember(strategy, rows(6, task))
    both = rows(2, 0, 5).joined(rows(2, 1, 5))
    strategy.augment(Batch(both.fields, both.provenance, 4))
    strategy.adjust_gradients()
    assert strategy.metrics()["constrained_steps"] == 0.0
    strategy.augment(Batch(both.fields, both.provenance, 2))  # those of task 1 are replayed
    strategy.adjust_gradients()
    assert strategy.metrics()["constrained_steps"] == 1.0


def test_the_first_task_is_learned_as_without_it() -> None:
    (plain, criterion), (model, own) = linear(), linear()
    strategy = GEM(own, CPU, generator(0))
    trainers = [
        Trainer(m, criterion.objective, torch.optim.SGD(m.parameters(), lr=0.1), strategies=s)
        for m, s in ((plain, []), (model, [strategy]))
    ]
    for seed in range(6):
        for trainer in trainers:
            trainer.step(rows(5, 0, seed))
    assert torch.equal(plain.weight, model.weight)


def test_interleaved_tasks_fill_a_reservoir_each_and_no_more_than_their_share() -> None:
    _, criterion = linear()
    strategy = GEM(criterion, CPU, generator(0), capacity_samples=23, most_tasks=3)
    for seed in range(20):
        mixed = rows(4, 0, seed).joined(rows(3, 5, seed))
        remember(strategy, Batch(mixed.fields, mixed.provenance, 7))
    memories = strategy.state_dict()["memories"]
    assert [saved["task"] for saved in memories] == [0, 5]
    for saved in memories:
        provenance = saved["memory"]["samples"]["provenance"]
        assert len(provenance) == 7
        assert (provenance[:, Column.TASK] == saved["task"]).all()
    assert strategy.metrics()["memory_samples"] == 14.0


def test_tasks_beyond_the_most_are_counted_and_not_remembered() -> None:
    _, criterion = linear()
    strategy = GEM(criterion, CPU, generator(0), capacity_samples=20, most_tasks=2)
    for task in range(4):
        remember(strategy, rows(6, task))
    figures = strategy.metrics()
    assert (figures["tasks"], figures["unprotected_samples"]) == (2.0, 12.0)
    strategy.augment(rows(3, 3))
    strategy.adjust_gradients()
    assert strategy.metrics()["constrained_steps"] == 1.0


def test_what_may_not_be_remembered_is_not() -> None:
    _, criterion = linear()
    strategy = GEM(criterion, CPU, generator(0))
    batch = rows(6, 0)
    batch.provenance[::2, Column.FLAGS] = SampleFlag.NO_REPLAY
    remember(strategy, batch)
    assert strategy.metrics()["memory_samples"] == 3.0


def test_a_step_needs_the_last_update_to_remember() -> None:
    _, criterion = linear()
    strategy = GEM(criterion, CPU, generator(0))
    batch = rows(6, 0)
    strategy.observe(Observation(batch, torch.zeros(6, 2), torch.zeros(6), 1, last=False))
    assert strategy.metrics()["memory_samples"] == 0.0


def test_a_capacity_below_one_sample_a_task_is_refused() -> None:
    _, criterion = linear()
    with pytest.raises(OperatorError, match=r"gem.*capacity_samples 5.*10 tasks"):
        GEM(criterion, CPU, generator(0), capacity_samples=5, most_tasks=10)


def test_a_state_of_more_tasks_than_are_kept_is_refused() -> None:
    _, criterion = linear()
    strategy = GEM(criterion, CPU, generator(0))
    for task in range(3):
        remember(strategy, rows(6, task))
    fewer = GEM(criterion, CPU, generator(0), most_tasks=2)
    with pytest.raises(OperatorError, match=r"gem.*3 tasks"):
        fewer.load_state_dict(copied(strategy.state_dict()))


def test_a_resumed_run_draws_and_keeps_what_the_saved_one_would() -> None:
    def made() -> tuple[Trainer, GEM]:
        model, criterion = linear()
        strategy = GEM(
            criterion, CPU, generator(3), capacity_samples=30, most_tasks=3, reference_samples=4
        )
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        return Trainer(model, criterion.objective, optimizer, strategies=[strategy]), strategy

    (first, _), (second, _) = made(), made()
    for task in range(3):
        for seed in range(4):
            first.step(rows(5, task, seed))
    second.load_state_dict(copied(first.state_dict()))
    for seed in range(4):
        for trainer in (first, second):
            trainer.step(rows(5, 0, seed + 20))
    assert_same(copied(first.state_dict()), copied(second.state_dict()))
