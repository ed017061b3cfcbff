"""LwF: each step against its equations, the teacher, and that it keeps what was learned."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from insitu.batch import Batch
from insitu.criterion import Criterion
from insitu.errors import OperatorError
from insitu.normalisation import Normaliser
from insitu.strategies.base import Observation
from insitu.strategies.lwf import LearningWithoutForgetting
from insitu.trainer import Trainer
from learning import OBJECTIVES, assert_same, copied, make_batch, make_model, make_objective
from stepwise import cross_entropies, flat, with_bias

STRENGTH, TEMPERATURE, RATE = 0.8, 3.0, 0.1


def trainer_of(objective: str, model: nn.Module, *, normalise: bool = False) -> Trainer:
    made = make_objective(objective)
    normaliser = Normaliser(OBJECTIVES[objective][0], made.statistics_of) if normalise else None
    strategy = LearningWithoutForgetting(
        Criterion(model, made, normaliser), made, strength=STRENGTH, temperature=TEMPERATURE
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    return Trainer(model, made, optimizer, strategies=[strategy], normaliser=normaliser)


def labelled(rows: int, labels: list[int], seed: int, task: int) -> Batch:
    """Rows whose labels are among these."""
    batch = make_batch("classify", rows, seed)
    chosen = torch.tensor(labels)[torch.arange(rows) % len(labels)]
    return Batch.of({"x": batch.fields["x"], "y": chosen}, task=task)


def softened(logits: Tensor, classes: list[int]) -> Tensor:
    powers = torch.exp(logits[:, classes] / TEMPERATURE)
    return powers / powers.sum(1, keepdim=True)


def test_every_step_is_that_of_the_equations() -> None:
    model = nn.Linear(6, 4)
    trainer = trainer_of("classify", model)
    teacher: Tensor | None = None
    for number in range(6):
        task = number // 3
        if number == 3:
            trainer.end_task(0)
            teacher = flat(model)
        batch = labelled(8, [0, 2] if task == 0 else [0, 1, 3], seed=number, task=task)
        before = flat(model)
        report = trainer.step(batch)
        weights = before.clone().requires_grad_()
        x, y = with_bias(batch.fields["x"]), batch.fields["y"]
        logits = x @ weights.T
        loss = cross_entropies(logits, y).mean()
        if teacher is not None:
            # the classes 0 and 2 had appeared when task 0 ended
            then, now = softened(x @ teacher.T, [0, 2]), softened(logits, [0, 2])
            distillation = -(then * now.log()).sum(1).mean()
            assert report.penalties["lwf"].item() == pytest.approx(
                STRENGTH * distillation.item(), rel=1e-5
            )
            loss = loss + STRENGTH * distillation
        else:
            assert not report.penalties
        (gradient,) = torch.autograd.grad(loss, weights)
        torch.testing.assert_close(flat(model), before - RATE * gradient, rtol=2e-5, atol=2e-6)


def test_other_outputs_are_held_by_their_distance() -> None:
    model = nn.Linear(6, 3)
    trainer = trainer_of("regress", model)
    trainer.step(make_batch("regress", 8, seed=0))
    trainer.end_task(0)
    teacher = flat(model)
    for number in range(1, 4):
        batch, before = make_batch("regress", 8, seed=number, task=1), flat(model)
        trainer.step(batch)
        weights = before.clone().requires_grad_()
        x, y = with_bias(batch.fields["x"]), batch.fields["y"].double()
        outputs = x @ weights.T
        loss = (outputs - y).square().mean()
        loss = loss + STRENGTH * (outputs - x @ teacher.T).square().mean()
        (gradient,) = torch.autograd.grad(loss, weights)
        torch.testing.assert_close(flat(model), before - RATE * gradient, rtol=2e-5, atol=2e-6)


def test_the_teacher_has_running_statistics_of_its_own() -> None:
    model = nn.Sequential(nn.BatchNorm1d(6), make_model(make_objective("classify"), dropout=0.5))
    trainer = trainer_of("classify", model)
    for number in range(3):
        trainer.step(make_batch("classify", 8, seed=number))
    trainer.end_task(0)
    saved = copied(dict(model.state_dict()))
    for number in range(3, 6):
        trainer.step(make_batch("classify", 8, seed=number, task=1))
    state = trainer.strategies["lwf"].state_dict()
    assert_same(copied(state["teacher"]), saved)
    assert all(part.training for part in model.modules())


def test_a_restored_teacher_teaches_the_same() -> None:
    model = nn.Sequential(nn.BatchNorm1d(6), make_model(make_objective("classify")))
    trainer = trainer_of("classify", model, normalise=True)
    for number in range(4):
        trainer.step(make_batch("classify", 8, seed=number))
    trainer.end_task(0)
    saved = copied(trainer.state_dict())
    other_model = nn.Sequential(nn.BatchNorm1d(6), make_model(make_objective("classify"), seed=9))
    other = trainer_of("classify", other_model, normalise=True)
    other.load_state_dict(saved)
    for number in range(4, 8):
        batch = make_batch("classify", 8, seed=number, task=1)
        one, two = trainer.step(batch), other.step(batch)
        assert one.penalties["lwf"].item() > 0
        assert_same(one.penalties["lwf"], two.penalties["lwf"])
    assert_same(copied(other.state_dict()), copied(trainer.state_dict()))


def test_a_task_that_ends_twice_or_had_no_samples_makes_no_teacher() -> None:
    trainer = trainer_of("classify", nn.Linear(6, 4))
    trainer.end_task(0)
    strategy = trainer.strategies["lwf"]
    assert strategy.state_dict()["teacher"] == {}
    trainer.step(make_batch("classify", 8, seed=0, task=2))
    trainer.end_task(2)
    first = copied(strategy.state_dict())
    trainer.step(make_batch("classify", 8, seed=1, task=3))
    trainer.end_task(2)
    assert_same(copied(strategy.state_dict()["teacher"]), first["teacher"])
    assert float(strategy.metrics()["teachers"]) == 1.0
    trainer.end_task(3)
    assert float(strategy.metrics()["teachers"]) == 2.0


def test_a_teacher_of_another_model_is_refused() -> None:
    trainer = trainer_of("classify", nn.Linear(6, 4))
    trainer.step(make_batch("classify", 8, seed=0))
    trainer.end_task(0)
    saved = copied(trainer.strategies["lwf"].state_dict())
    other = trainer_of("classify", make_model(make_objective("classify")))
    with pytest.raises(OperatorError, match=r"lwf.*not this model"):
        other.strategies["lwf"].load_state_dict(saved)


def test_unlabelled_rows_are_no_class() -> None:
    objective = make_objective("classify")
    strategy = LearningWithoutForgetting(Criterion(nn.Linear(6, 4), objective), objective)
    batch = Batch.of({"x": torch.zeros(3, 6), "y": torch.tensor([-1, 1, -1])})
    strategy.observe(Observation(batch, torch.zeros(3, 4), torch.zeros(3), 1))
    assert strategy.seen.tolist() == [False, True, False, False]


def test_it_ends_between_what_was_and_what_is_learned() -> None:
    """Targets A x, then B x: both errors are of the same rows, so (B + s A) / (1 + s) is best."""
    model = nn.Linear(6, 3)
    trainer = trainer_of("regress", model)
    random = torch.Generator().manual_seed(0)
    former, latter = torch.randn(2, 3, 6, generator=random)
    for task, wanted in enumerate((former, latter)):
        for _ in range(250):
            x = torch.randn(32, 6, generator=random)
            trainer.step(Batch.of({"x": x.double(), "y": x @ wanted.T}, task=task))
        trainer.end_task(task)
        if task == 0:
            torch.testing.assert_close(model.weight.detach(), former, rtol=0, atol=1e-3)
    expected = (latter + STRENGTH * former) / (1 + STRENGTH)
    torch.testing.assert_close(model.weight.detach(), expected, rtol=0, atol=1e-2)
