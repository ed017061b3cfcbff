"""Experience replay: what is mixed in, what is remembered, and that it helps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from insitu.batch import Batch, Column, SampleFlag
from insitu.errors import OperatorError
from insitu.objectives.classify import Classify
from insitu.schema import Schema
from insitu.strategies.base import Observation
from insitu.strategies.replay import ExperienceReplay
from insitu.strategies.replay_augmentation import Augmentation
from insitu.trainer import Trainer
from learning import generator, make_batch, make_memory, make_objective
from stepwise import Parts, Recorder, Step, assert_descends, cross_entropies, steps


def observe(replay: ExperienceReplay, batch: Batch, step: int = 1) -> None:
    losses = torch.arange(batch.rows, dtype=torch.float32)
    replay.observe(Observation(batch, torch.zeros(batch.rows, 1), losses, step))


def test_a_warm_up_that_never_ends_is_refused() -> None:
    with pytest.raises(OperatorError, match=r"'replay': warm_up_samples 9 .* at most .*, 8.*never"):
        ExperienceReplay(make_memory(8), warm_up_samples=9)
    ExperienceReplay(make_memory(8), warm_up_samples=8)


def test_nothing_is_mixed_in_before_the_warm_up() -> None:
    replay = ExperienceReplay(make_memory(), samples_per_step=4, warm_up_samples=10)
    batch = make_batch("classify", 6, seed=0)
    assert replay.augment(batch) is batch
    observe(replay, batch)
    assert replay.augment(batch) is batch
    observe(replay, batch)
    augmented = replay.augment(batch)
    assert (augmented.fresh_rows, augmented.replayed_rows) == (6, 4)


def test_a_small_memory_is_drawn_whole_and_no_row_twice() -> None:
    replay = ExperienceReplay(make_memory(), samples_per_step=100)
    batch = make_batch("classify", 6, seed=0)
    observe(replay, batch)
    rows = replay.augment(batch).column(Column.ROW)[6:]
    assert sorted(rows.tolist()) == list(range(6))
    assert float(replay.metrics()["times_replayed_mean"]) == 1.0


def test_remembered_rows_are_the_rows_that_came() -> None:
    replay = ExperienceReplay(make_memory(), samples_per_step=3)
    old, new = make_batch("classify", 9, seed=0, task=4), make_batch("classify", 2, seed=1)
    observe(replay, old)
    augmented = replay.augment(new)
    assert torch.equal(augmented.fields["x"][:2], new.fields["x"])
    assert (augmented.column(Column.TASK)[2:] == 4).all()
    for row in range(2, 5):
        source = int(augmented.column(Column.ROW)[row])
        assert torch.equal(augmented.fields["x"][row], old.fields["x"][source])
        assert torch.equal(augmented.fields["y"][row], old.fields["y"][source])


def test_only_fresh_rows_that_may_be_kept_are_remembered() -> None:
    replay = ExperienceReplay(make_memory(), samples_per_step=3)
    batch = make_batch("classify", 8, seed=0)
    batch.provenance[2:, Column.FLAGS] = SampleFlag.NO_REPLAY
    observe(replay, batch.joined(make_batch("classify", 5, seed=1)))
    assert len(replay.memory) == 2
    assert {name: float(value) for name, value in replay.metrics().items()} == {
        "memory_samples": 2.0,
        "times_replayed_mean": 0.0,
        "replay_weight": 1.0,
    }


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images / 16.0, dtype=torch.float32), torch.tensor(labels)


def first_task_accuracy(samples_per_step: int | None, seed: int) -> float:
    """Learn 0-4, then 5-9, each image once; the accuracy on held-out 0-4 at the end."""
    schema = Schema.of({"x": ("float32", (64,)), "y": ("int64", ())})
    objective = Classify(schema, classes=10)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    strategies = []
    if samples_per_step is not None:
        memory = make_memory(capacity=200, seed=seed)
        strategies = [ExperienceReplay(memory, samples_per_step=samples_per_step)]
    trainer = Trainer(
        model, objective, torch.optim.Adam(model.parameters(), lr=3e-3), strategies=strategies
    )
    images, labels = digits()
    held_out = torch.from_numpy(np.arange(len(labels)) % 5 == 0)
    for task in range(2):
        members = ((labels // 5 == task) & ~held_out).nonzero().flatten()
        order = members[torch.randperm(len(members), generator=generator(seed))]
        for rows in order.split(10):
            trainer.step(Batch.of({"x": images[rows], "y": labels[rows]}, task=task))
    first = (labels // 5 == 0) & held_out
    return trainer.evaluate(Batch.of({"x": images[first], "y": labels[first]})).scores["accuracy"]


def test_replay_keeps_the_first_task() -> None:
    without = [first_task_accuracy(None, seed) for seed in range(3)]
    with_replay = [first_task_accuracy(10, seed) for seed in range(3)]
    assert max(without) < 0.5
    assert min(with_replay) > 0.7
    assert min(with_replay) > max(without) + 0.3


@pytest.mark.parametrize("samples_per_step", [1, 5])
def test_every_remembered_row_is_replayed_uniformly(samples_per_step: int) -> None:
    replay = ExperienceReplay(make_memory(capacity=20), samples_per_step=samples_per_step)
    batch = make_batch("classify", 20, seed=0)
    observe(replay, batch)
    counts = torch.zeros(20)
    draws = 400
    for _ in range(draws):
        rows = replay.augment(batch).column(Column.ROW)[20:]
        counts += torch.bincount(rows, minlength=20)
    expected = draws * samples_per_step / 20
    statistic = ((counts - expected).square() / expected).sum().item()
    assert statistic < 50.8  # chi-square of 19 degrees of freedom, 1 in 10,000


@pytest.mark.parametrize("objective", ["classify", "regress"])
@pytest.mark.parametrize("mean_over", ["all", "parts"])
@pytest.mark.parametrize("weight", [1.0, 0.3, 2.0])
def test_every_step_is_that_of_the_equation(objective: str, mean_over: str, weight: float) -> None:
    def make(parts: Parts) -> ExperienceReplay:
        return ExperienceReplay(
            parts.memory,
            samples_per_step=5,
            replay_weight=weight,
            mean_over=mean_over,  # type: ignore[arg-type]
        )

    for step in steps(make, objective=objective):
        fresh = step.fresh

        def loss(weights: torch.Tensor, step: Step = step, fresh: int = fresh) -> torch.Tensor:
            outputs = step.inputs @ weights.T
            if objective == "classify":
                losses = cross_entropies(outputs, step.labels)
            else:
                losses = (outputs - step.labels.double()).square().mean(1)
            if step.batch.replayed_rows == 0:
                return losses.mean()
            if mean_over == "all":
                return (losses[:fresh].sum() + weight * losses[fresh:].sum()) / len(losses)
            return losses[:fresh].mean() + weight * losses[fresh:].mean()

        assert_descends(step, loss)


@pytest.mark.parametrize("control", ["loss", "loss_ratio"])
def test_the_weight_follows_the_loss_on_memory(control: str) -> None:
    """Step by step by its equation, and each step is made with the weight before it."""

    def make(parts: Parts) -> ExperienceReplay:
        replay = ExperienceReplay(
            parts.memory,
            samples_per_step=5,
            weight_control=control,  # type: ignore[arg-type]
            weight_target=target,
            weight_rate=0.5,
            weight_most=1.5,
        )
        made.append(replay)
        return replay

    made: list[ExperienceReplay] = []
    target = 1.6 if control == "loss" else 0.8
    expected, visited = 1.0, []
    for step in steps(make, batches=12):
        fresh = step.fresh

        def loss(
            weights: torch.Tensor, step: Step = step, fresh: int = fresh, weight: float = expected
        ) -> torch.Tensor:
            losses = cross_entropies(step.inputs @ weights.T, step.labels)
            return (losses[:fresh].sum() + weight * losses[fresh:].sum()) / len(losses)

        assert_descends(step, loss)
        if step.batch.replayed_rows:
            losses = cross_entropies(step.inputs @ step.before.T, step.labels)
            reached = target * (losses[:fresh].mean().item() if control == "loss_ratio" else 1.0)
            exponent = 0.5 * (losses[fresh:].mean().item() / reached - 1)
            moved = expected * np.exp(np.clip(exponent, -1, 1))
            expected = float(np.clip(moved, 1 / 1.5, 1.5))
        visited.append(expected)
    assert len(set(visited)) > 5
    assert float(made[0].metrics()["replay_weight"]) == pytest.approx(expected, rel=1e-4)


def test_a_controlled_weight_is_restored() -> None:
    def replay() -> ExperienceReplay:
        return ExperienceReplay(
            make_memory(), samples_per_step=4, weight_control="loss", weight_rate=0.5
        )

    used, other = replay(), replay()
    batch = make_batch("classify", 6, seed=0)
    observe(used, batch)
    observe(used, used.augment(batch))
    assert float(used.metrics()["replay_weight"]) != 1.0
    other.load_state_dict(used.state_dict())
    assert other.metrics()["replay_weight"] == used.metrics()["replay_weight"]


def test_several_updates_draw_anew_and_remember_once() -> None:
    recorder = Recorder()
    replay = ExperienceReplay(make_memory(), samples_per_step=3)
    model = nn.Linear(6, 4)
    trainer = Trainer(
        model,
        make_objective("classify"),
        torch.optim.SGD(model.parameters(), lr=0.1),
        strategies=[replay, recorder],
        updates_per_batch=4,
    )
    for number in range(3):
        trainer.step(make_batch("classify", 10, seed=number))
    assert len(replay.memory) == 30
    assert len(recorder.batches) == 12
    draws = {tuple(batch.column(Column.ROW)[10:].tolist()) for batch in recorder.batches[8:]}
    assert len(draws) == 4


def test_the_memory_is_told_what_its_samples_cost_now() -> None:
    replay = ExperienceReplay(make_memory(), samples_per_step=3)
    batch = make_batch("classify", 6, seed=0)
    observe(replay, batch)
    augmented = replay.augment(batch)
    losses = torch.arange(100.0, 109.0)
    replay.observe(Observation(augmented, torch.zeros(9, 1), losses, 2, last=False))
    slots = torch.from_numpy(replay.memory.last_sampled)
    assert replay.memory.last_loss[slots].tolist() == [106.0, 107.0, 108.0]


def test_replayed_rows_alone_are_changed() -> None:
    replay = ExperienceReplay(make_memory(), samples_per_step=6, augment=Augmentation(noise=1.0))
    batch = make_batch("classify", 6, seed=0)
    observe(replay, batch)
    augmented = replay.augment(batch)
    assert torch.equal(augmented.fields["x"][:6], batch.fields["x"])
    sources = augmented.column(Column.ROW)[6:]
    assert not torch.isclose(augmented.fields["x"][6:], batch.fields["x"][sources]).any()
    assert torch.equal(augmented.fields["y"][6:], batch.fields["y"][sources])
    remembered = replay.memory.sample(6)
    assert remembered is not None
    rows = remembered.column(Column.ROW)
    assert torch.equal(remembered.fields["x"], batch.fields["x"][rows])
