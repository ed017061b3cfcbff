"""Experience replay: what is mixed in, what is remembered, and that it helps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from insitu.batch import Batch, Column, SampleFlag
from insitu.objectives.classify import Classify
from insitu.schema import Schema
from insitu.strategies.base import Observation
from insitu.strategies.replay import ExperienceReplay
from insitu.trainer import Trainer
from learning import generator, make_batch, make_memory


def observe(replay: ExperienceReplay, batch: Batch, step: int = 1) -> None:
    losses = torch.arange(batch.rows, dtype=torch.float32)
    replay.observe(Observation(batch, torch.zeros(batch.rows, 1), losses, step))


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
