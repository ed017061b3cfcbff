"""One head a task: each equals a linear head of its own, and each choice its definition."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from insitu.batch import Batch
from insitu.objectives.classify import Classify
from insitu.objectives.task_heads import TaskHeads
from insitu.schema import Schema
from insitu.trainer import Trainer
from learning import assert_same, copied, generator

FEATURES, CLASSES = 3, 6
SCHEMA = Schema.of({"x": ("float32", (FEATURES,)), "y": ("int64", ())})


def batch_of(labels: list[int], seed: int = 0, *, task: int = 0) -> Batch:
    x = torch.randn(len(labels), FEATURES, generator=generator(seed))
    return Batch.of({"x": x, "y": torch.tensor(labels)}, task=task)


def heads_of(count: int = 3, **options: Any) -> tuple[TaskHeads, nn.Module, Trainer]:
    objective = TaskHeads(SCHEMA, heads=count, classes=CLASSES, features=FEATURES, **options)
    torch.manual_seed(1)
    network = objective.network(nn.Identity())
    trainer = Trainer(network, objective, torch.optim.SGD(network.parameters(), lr=0.3))
    return objective, network, trainer


#: which classes come in which task; the last two share one
TASKS = ([1, 2], [4, 5], [5, 0])


def learn(trainer: Trainer, steps: int = 12) -> list[Batch]:
    batches = []
    for step in range(steps):
        task = step % 3
        one, other = TASKS[task]
        batch = batch_of([one, other, other, one], step, task=task)
        offset = 4.0 * nn.functional.one_hot(torch.tensor(task), FEATURES)
        batch = batch.with_fields({**batch.fields, "x": batch.fields["x"] + offset})
        trainer.step(batch)
        batches.append(batch)
    return batches


def test_it_equals_a_linear_head_for_every_task_over_the_classes_that_it_saw() -> None:
    _, network, trainer = heads_of()
    weight = network.get_submodule("heads").weight.data.view(3, CLASSES, FEATURES)
    bias = network.get_submodule("heads").bias.data.view(3, CLASSES)
    trainers = []
    for task, classes in enumerate(TASKS):
        head = nn.Linear(FEATURES, 2)
        head.weight.data = weight[task, classes].clone()
        head.bias.data = bias[task, classes].clone()
        objective = Classify(SCHEMA, classes=2)
        trainers.append(Trainer(head, objective, torch.optim.SGD(head.parameters(), lr=0.3)))
    for step in range(12):
        task = step % 3
        one, other = TASKS[task]
        mine = batch_of([one, other, other, one], step, task=task)
        alone = batch_of([0, 1, 1, 0], step)
        report, wanted = trainer.step(mine), trainers[task].step(alone)
        torch.testing.assert_close(report.losses, wanted.losses)
        if step > 2:  # before, the head had never been trained: it answers among all classes
            assert report.scores["accuracy_given_head"] == wanted.scores["accuracy"]
    for task, (classes, alone_trainer) in enumerate(zip(TASKS, trainers, strict=True)):
        torch.testing.assert_close(weight[task, classes], alone_trainer.module.weight)


def expected_choice(choice: str, trainer: Trainer, batches: list[Batch], asked: Tensor) -> Tensor:
    """(rows, heads) by the page, of a trainer whose objective forgets nothing (decay 1)."""
    heads = trainer.module.get_submodule("heads")
    with torch.no_grad():
        logits = heads(asked).view(len(asked), 3, CLASSES)
    found = torch.empty(len(asked), 3)
    for row in range(len(asked)):
        for head, classes in enumerate(TASKS):
            own = logits[row, head, classes]
            if choice == "maximum_logit":
                found[row, head] = own.max()
            else:
                means = [
                    torch.cat([b.fields["x"][b.fields["y"] == c] for b in batches[head::3]]).mean(0)
                    for c in classes
                ]
                found[row, head] = -min((asked[row] - m).square().sum().item() for m in means)
    return found


@pytest.mark.parametrize("choice", ["maximum_logit", "nearest_mean"])
@pytest.mark.parametrize("choose_for", ["row", "set"])
def test_heads_are_chosen_by_the_page(choice: Any, choose_for: Any) -> None:
    objective, network, trainer = heads_of(choice=choice, choose_for=choose_for, decay=1.0)
    batches = learn(trainer)
    asked = batch_of([4, 5, 4, 5, 5], 77, task=1)
    asked = asked.with_fields({**asked.fields, "x": asked.fields["x"] + torch.tensor([0, 4.0, 0])})
    wanted = expected_choice(choice, trainer, batches, asked.fields["x"])
    outputs = objective.predict(network, asked)
    torch.testing.assert_close(outputs[:, -3:].detach(), wanted, rtol=1e-4, atol=1e-4)
    by_row, by_set = wanted.argmax(1), wanted.mean(0).argmax().expand(5)
    logits = outputs[:, FEATURES:-3].view(5, 3, CLASSES)
    scores = objective.scores(outputs, asked)
    for name, heads in (("accuracy_by_row", by_row), ("accuracy_by_set", by_set)):
        hits = 0
        for row in range(5):
            classes = TASKS[int(heads[row])]
            best = classes[int(logits[row, heads[row], classes].argmax())]
            hits += best == int(asked.fields["y"][row])
        assert scores[name].item() == pytest.approx(hits / 5)
    assert scores["accuracy"] == scores[f"accuracy_by_{choose_for}"]
    assert scores["head_found"].item() == pytest.approx((by_row == 1).float().mean().item())


def test_energies_are_calibrated_by_the_rows_of_their_head() -> None:
    objective, network, trainer = heads_of(choice="energy", decay=0.9)
    means, squares, counted = [0.0] * 3, [0.0] * 3, [False] * 3
    for step in range(9):
        task = step % 3
        batch = batch_of([*TASKS[task], TASKS[task][0]], step, task=task)
        with torch.no_grad():
            logits = network.get_submodule("heads")(batch.fields["x"]).view(3, 3, CLASSES)
        energies = logits[:, task, TASKS[task]].logsumexp(1).tolist()
        mean, square = sum(energies) / 3, sum(e * e for e in energies) / 3
        share = 1 - 0.9**3 if counted[task] else 1.0
        means[task] += share * (mean - means[task])
        squares[task] += share * (square - squares[task])
        counted[task] = True
        trainer.step(batch)
    asked = batch_of([1], 50)
    outputs = objective.predict(network, asked)
    logits = outputs[:, FEATURES:-3].view(3, CLASSES)
    for head in range(3):
        energy = logits[head, TASKS[head]].logsumexp(0).item()
        deviation = math.sqrt(squares[head] - means[head] ** 2) + 1e-6
        wanted = (energy - means[head]) / deviation
        assert outputs[0, head - 3].item() == pytest.approx(wanted, rel=1e-3, abs=1e-4)


def test_a_class_that_two_heads_know_is_right_by_either() -> None:
    objective, _, trainer = heads_of(choice="maximum_logit")
    learn(trainer)
    logits = torch.full((1, 3, CLASSES), -5.0)
    logits[0, 2, 5] = 9.0  # the head of the third task says class 5
    outputs = torch.cat((torch.zeros(1, FEATURES), logits.flatten(1), torch.eye(3)[2:]), dim=1)
    scores = objective.scores(outputs, batch_of([5], task=1))
    assert scores["accuracy"] == 1.0
    assert scores["head_found"] == 0.0


def test_a_classifier_beside_the_heads_learns_by_balanced_softmax_and_votes() -> None:
    """Against one that stands alone, with autograd; heads and features learn as without it."""
    objective, network, trainer = heads_of(choice="class_votes")
    _, plain_network, plain = heads_of(choice="energy")
    plain_network.get_submodule("heads").load_state_dict(
        copied(network.get_submodule("heads").state_dict())
    )
    alone = nn.Linear(FEATURES, CLASSES)
    alone.load_state_dict(copied(network.get_submodule("votes").state_dict()))
    shares = torch.zeros(CLASSES)
    for step in range(12):
        labels = [*TASKS[step % 3], TASKS[step % 3][0]]
        batch = batch_of(labels, step, task=step % 3)
        present = nn.functional.one_hot(batch.fields["y"], CLASSES).float().mean(dim=0)
        shares = present if step == 0 else 0.95 * shares + 0.05 * present
        known = shares > 0
        logits = alone(batch.fields["x"])[:, known] + shares[known].log()
        places = known.cumsum(0)[batch.fields["y"]] - 1
        gradients = torch.autograd.grad(
            nn.functional.cross_entropy(logits, places), list(alone.parameters())
        )
        with torch.no_grad():
            for parameter, gradient in zip(alone.parameters(), gradients, strict=True):
                parameter -= 0.3 * gradient
        report, wanted = trainer.step(batch), plain.step(batch)
        torch.testing.assert_close(report.losses, wanted.losses)
    votes = network.get_submodule("votes")
    torch.testing.assert_close(votes.weight, alone.weight)
    torch.testing.assert_close(votes.bias, alone.bias)
    assert_same(network.get_submodule("heads").weight, plain_network.get_submodule("heads").weight)

    asked = batch_of([1, 2, 2, 1], 50, task=0)
    logits = alone(asked.fields["x"]).masked_fill(shares == 0, -math.inf)
    posterior = logits.softmax(dim=1)
    expected = torch.stack([posterior[:, classes].mean(dim=1) for classes in TASKS], dim=1)
    outputs = objective.predict(network, asked)
    torch.testing.assert_close(outputs[:, -3:], expected)


def test_votes_of_a_set_find_its_task_where_half_of_the_rows_do_not() -> None:
    """Tasks overlap, and the last one brought most of the rows."""
    objective, network, trainer = heads_of(choice="class_votes", choose_for="set")
    directions = torch.randn(CLASSES, FEATURES, generator=generator(3))

    def rows_of(labels: list[int], seed: int, task: int) -> Batch:
        batch = batch_of(labels, seed, task=task)
        x = batch.fields["x"] + 0.7 * directions[batch.fields["y"]]
        return batch.with_fields({**batch.fields, "x": x})

    for step in range(120):
        for task, (one, other) in enumerate(TASKS):
            trainer.step(rows_of([one, other] * (16 if task == 2 else 2), 3 * step + task, task))
    for task, classes in enumerate(TASKS):
        asked = rows_of(list(classes) * 200, 1000 + task, task)
        scores = objective.scores(objective.predict(network, asked), asked)
        assert scores["accuracy_by_set"] == scores["accuracy_given_head"] == scores["accuracy"]
        assert scores["head_found"] < 0.8
        assert scores["accuracy_by_row"] < scores["accuracy"]


def test_before_a_task_was_learned_its_head_answers_among_all_classes() -> None:
    objective, network, trainer = heads_of(choice="given")
    for step in range(4):
        trainer.step(batch_of([1, 2], step, task=0))
    asked = batch_of([5, 0] * 50, 9, task=2)
    outputs = objective.predict(network, asked)
    answers = outputs[:, FEATURES:-3].view(100, 3, CLASSES)[:, 2].argmax(dim=1)
    hits = (answers == asked.fields["y"]).float().mean()
    assert objective.scores(outputs, asked)["accuracy"] == hits
    assert len(answers.unique()) > 2


@pytest.mark.parametrize("choice", ["maximum_logit", "energy", "nearest_mean", "class_votes"])
def test_a_head_that_was_never_trained_is_not_chosen(choice: Any) -> None:
    objective, network, trainer = heads_of(choice=choice)
    for step in range(4):
        trainer.step(batch_of([1, 2], step, task=0))
    outputs = objective.predict(network, batch_of([4, 5], 9, task=1))
    assert torch.isneginf(outputs[:, -2:]).all()
    assert torch.isfinite(outputs[:, -3]).all()


@pytest.mark.parametrize("choice", ["nearest_mean", "class_votes"])
def test_scores_are_those_before_the_update_whenever_they_are_read(choice: Any) -> None:
    _, _, trainer = heads_of(choice=choice)
    learn(trainer, 6)
    _, _, other = heads_of(choice=choice)
    other.load_state_dict(copied(trainer.state_dict()))
    batch = batch_of([1, 2, 2], 40, task=0)
    before = other.criterion.outputs(batch)
    late = trainer.step(batch).scores
    assert late["accuracy"] == other.objective.scores(before, batch)["accuracy"]


@pytest.mark.parametrize("choice", ["energy", "class_votes"])
def test_a_resumed_run_is_bit_identical(choice: Any) -> None:
    _, _, first = heads_of(choice=choice)
    learn(first)
    _, _, second = heads_of(choice=choice)
    second.load_state_dict(copied(first.state_dict()))
    for trainer in (first, second):
        learn(trainer)
    assert_same(copied(first.state_dict()), copied(second.state_dict()))


def test_the_task_known_every_row_is_answered_by_its_head() -> None:
    objective, network, trainer = heads_of(choice="given")
    learn(trainer)
    batch = batch_of([4, 5, 5], 3, task=1)
    scores = objective.scores(objective.predict(network, batch), batch)
    assert scores["accuracy"] == scores["accuracy_given_head"] == scores["accuracy_by_set"]
    assert scores["head_found"] == 1.0
