"""Statistics of each task, kept when it ends: whose rows they serve, and that they stay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hebbian_network import CLASSES, STRATEGIES, batch, objective, trainer
from insitu.batch import Batch
from insitu.config import check_config
from insitu.layers.standardisation import BatchStandardisation
from insitu.layers.task_statistics import TasksInProgress, rows_of_tasks
from insitu.layers.update import HebbianUpdate
from insitu.models.hebbian import Hebbian
from insitu.trainer import Trainer
from insitu_service.learning.building import build_trainer
from learning import assert_same, copied, generator

CHANNELS = 3


def rows_of(seed: int, rows: int = 6, shift: float = 0.0) -> Tensor:
    noise = torch.randn(rows, CHANNELS, 2, generator=generator(seed), dtype=torch.float64)
    return (2.0 + shift) * noise + shift


def made() -> tuple[BatchStandardisation, HebbianUpdate, TasksInProgress]:
    part = BatchStandardisation(CHANNELS).double()
    return part, HebbianUpdate(part), TasksInProgress([part.keep_tasks()])


def train(part: BatchStandardisation, update: HebbianUpdate, rows: Tensor, task: int) -> Tensor:
    assert part.of_tasks is not None
    with rows_of_tasks([part.of_tasks], [task] * len(rows)):
        found = part(rows)
    update.step()
    return found


def by(rows: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return (rows - mean.view(-1, 1)) / (variance.view(-1, 1) + 1e-5).sqrt()


def moments(rows: Tensor, unbiased: bool) -> tuple[Tensor, Tensor]:
    values = rows.transpose(0, 1).flatten(1)
    return values.mean(1), values.var(1, correction=int(unbiased))


def averaged(batches: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Plain means until a tenth is more, then that."""
    mean, variance = moments(batches[0], unbiased=True)
    for number, rows in enumerate(batches[1:], start=2):
        share = max(0.1, 1.0 / number)
        new_mean, new_variance = moments(rows, unbiased=True)
        mean = mean + share * (new_mean - mean)
        variance = variance + share * (new_variance - variance)
    return mean, variance


def test_rows_of_a_task_that_ended_are_standardised_by_what_was_kept() -> None:
    part, update, in_progress = made()
    batches = [rows_of(seed) for seed in range(13)]
    for rows in batches:
        expected = by(rows, *moments(rows, unbiased=False))
        torch.testing.assert_close(train(part, update, rows, 5), expected)
        in_progress.tasks.add(5)
    in_progress.end_task(5)
    kept = averaged(batches)

    fresh, replayed = rows_of(20, shift=3.0), rows_of(21, rows=3)
    assert part.of_tasks is not None
    with rows_of_tasks([part.of_tasks], [9] * 6 + [5] * 3):
        found = part(torch.cat((fresh, replayed)))
    torch.testing.assert_close(found[:6], by(fresh, *moments(fresh, unbiased=False)))
    torch.testing.assert_close(found[6:], by(replayed, *kept))
    before = part.running_mean.clone()
    update.step()
    shared = 0.9 * before + 0.1 * moments(fresh, unbiased=True)[0]  # replayed rows count not
    torch.testing.assert_close(part.running_mean, shared)
    in_progress.tasks.add(9)
    in_progress.end_task(9)

    part.eval()
    asked = rows_of(30, rows=3)
    with rows_of_tasks([part.of_tasks], [9, 7, 5]):  # 7 is unknown
        found = part(asked)
    torch.testing.assert_close(found[0], by(asked, *averaged([fresh]))[0])
    torch.testing.assert_close(found[1], by(asked, part.running_mean, part.running_var)[1])
    torch.testing.assert_close(found[2], by(asked, *kept)[2])
    untold = by(asked, part.running_mean, part.running_var)
    torch.testing.assert_close(part(asked), untold)


def test_rows_may_come_in_several_views() -> None:
    part, update, in_progress = made()
    train(part, update, rows_of(0, shift=4.0), 0)
    in_progress.tasks.add(0)
    in_progress.end_task(0)
    train(part, update, rows_of(1), 1)
    part.eval()
    assert part.of_tasks is not None
    asked = rows_of(2, rows=2)
    with rows_of_tasks([part.of_tasks], [0, 1]):
        once, twice = part(asked), part(torch.cat((asked, asked)))
    assert torch.equal(twice, torch.cat((once, once)))
    assert not torch.equal(once[0], part(asked)[0])


def test_a_task_that_had_no_batch_or_ended_before_keeps_nothing_new() -> None:
    part, update, in_progress = made()
    in_progress.tasks.add(3)
    in_progress.end_task(3)  # rows that taught nothing
    assert part.of_tasks is not None
    assert part.of_tasks.tasks.tolist() == []
    train(part, update, rows_of(0), 4)
    in_progress.end_task(8)  # never seen
    for _ in range(2):
        in_progress.tasks.add(4)
        in_progress.end_task(4)
        kept = part.of_tasks.means.clone()
        train(part, update, rows_of(1, shift=2.0), 4)  # it came back
    assert part.of_tasks.tasks.tolist() == [4]
    assert torch.equal(part.of_tasks.means, kept)


def test_tasks_that_end_together_keep_the_same() -> None:
    part, update, in_progress = made()
    assert part.of_tasks is not None
    with rows_of_tasks([part.of_tasks], [0, 0, 0, 1, 1, 1]):
        part(rows_of(0))
    update.step()
    in_progress.tasks |= {0, 1}
    for task in (0, 1):
        in_progress.end_task(task)
    assert part.of_tasks.tasks.tolist() == [0, 1]
    assert torch.equal(part.of_tasks.means[0], part.of_tasks.means[1])


def test_what_is_not_followed_is_not_kept() -> None:
    part, update, _ = made()
    train(part, update, rows_of(0), 0)
    before = copied(part.state_dict())
    assert part.of_tasks is not None
    with rows_of_tasks([part.of_tasks], [0] * 6):
        part(rows_of(1))
        update.discard()
        update.step()
        part.recording = False
        part(rows_of(2))
        update.step()
        part.recording = True
        part(rows_of(3) * torch.nan)
        update.step()
    after = copied(part.state_dict())
    for state in (before, after):  # as without tasks, a batch that taught nothing is counted
        del state["num_batches_tracked"], state["of_tasks.batches"]
    assert_same(after, before)


# --- in a trainer


def network_trainer(
    standardisation: str,
    *,
    strategies: tuple[str, ...] = (),
    choice: str = "given",
    seed: int = 0,
    monkeypatch: pytest.MonkeyPatch,
    **options: Any,
) -> Trainer:
    """All kernels are locked once a task has ended."""
    lock = {"mode": "lock", "protected_share": 1.0, "top": 11, "standardisation": standardisation}
    monkeypatch.setitem(STRATEGIES, "kernel_plasticity", lock)
    goal = objective("task_heads", heads=3, features=11, choice=choice)
    names = ("kernel_plasticity", *strategies)
    torch.manual_seed(seed)  # of the heads
    return trainer(strategies=names, goal=goal, seed=seed, options=options)


def learn(made: Trainer, tasks: range) -> None:
    for task in tasks:
        for number in range(6):
            x = batch(number + 10 * task, task=task)
            made.step(Batch.of({**x.fields, "x": x.fields["x"] * (1.0 + task) + task}, task=task))
        made.end_task(task)


def features(made: Trainer, rows: Batch) -> Tensor:
    """What stands behind the blocks, less the one number that scales it for the heads."""
    scale = made.module.model.head.factor  # type: ignore[union-attr]
    with torch.no_grad():
        made.module.eval()
        trained = scale.clone()  # type: ignore[operator]
        scale.fill_(1.0)  # type: ignore[operator]
        outputs = made.criterion.outputs(rows)
        scale.copy_(trained)  # type: ignore[operator]
        made.module.train()
    return outputs[:, :11].clone()


@pytest.mark.parametrize("standardisation", ["per_task", "shared"])
def test_features_of_a_former_task_stay_to_the_bit(
    standardisation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = network_trainer(standardisation, strategies=("replay",), monkeypatch=monkeypatch)
    learn(made, range(1))
    asked = batch(99, task=0)
    before = features(made, asked)
    weights = [p.clone() for name, p in made.module.named_parameters() if "layer.weight" in name]
    learn(made, range(1, 3))
    after = [p for name, p in made.module.named_parameters() if "layer.weight" in name]
    assert all(torch.equal(a, b) for a, b in zip(weights, after, strict=True))
    now, of_task_1 = features(made, asked), features(made, batch(99, task=1))
    assert torch.equal(now, before) == (standardisation == "per_task")
    assert torch.equal(now, of_task_1) == (standardisation == "shared")


def test_where_the_task_is_not_given_all_share_the_statistics(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = network_trainer("per_task", choice="nearest_mean", monkeypatch=monkeypatch)
    learn(made, range(2))
    found = [features(made, batch(99, task=task)) for task in range(3)]
    assert torch.equal(found[0], found[1])
    given = network_trainer("per_task", monkeypatch=monkeypatch)
    given.load_state_dict(copied(made.state_dict()))
    assert not torch.equal(features(given, batch(99, task=0)), found[0])
    assert torch.equal(features(given, batch(99, task=2)), found[2])  # not known


@pytest.mark.parametrize("names", [("replay", "lwf", "a_gem"), ("mir", "online_ewc")])
@pytest.mark.parametrize("at", [1, 2])
def test_a_resumed_run_is_bit_identical(
    at: int, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside copies of the model, whose tables have to grow with its own."""
    whole, resumed = (
        network_trainer("per_task", strategies=names, seed=seed, monkeypatch=monkeypatch)
        for seed in (0, 4)
    )
    learn(whole, range(at))
    whole.step(batch(70, task=at))
    saved = copied(whole.state_dict())
    learn(whole, range(at, 3))
    state = copied(whole.state_dict())
    assert state["model"]["model.blocks.0.standardisation.of_tasks.tasks"].tolist() == [0, 1, 2]
    resumed.load_state_dict(saved)
    learn(resumed, range(at, 3))
    assert_same(copied(resumed.state_dict()), state)


def test_padded_batches_teach_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    states = []
    for padded_rows in (None, 16):
        made = network_trainer(
            "per_task", strategies=("replay",), padded_rows=padded_rows, monkeypatch=monkeypatch
        )
        learn(made, range(2))
        states.append(copied(made.state_dict()["model"]))
    torch.testing.assert_close(states[1], states[0], rtol=1e-4, atol=1e-5)


def test_it_is_asked_for_in_a_configuration() -> None:
    shape = [2, 8, 6]
    fields = {"x": {"dtype": "float32", "shape": shape}, "y": {"dtype": "int64", "shape": []}}
    blocks = [{"kernels": 7, "kernel_size": 3}, {"kernels": 11}]
    config = check_config(
        {
            "stream": {"names": ["s"], "endpoints": ["tcp://127.0.0.1:*"], "fields": fields},
            "model": {"name": "hebbian", "options": {"blocks": blocks}},
            "objective": {"name": "multi_head", "options": {"heads": 2, "classes": CLASSES}},
            "strategies": [
                {"name": "kernel_plasticity", "options": {"standardisation": "per_task"}}
            ],
        }
    )
    made = build_trainer(config, torch.device("cpu"))
    learn(made, range(2))
    assert isinstance(made.module, Hebbian)
    for block in made.module.blocks:
        assert block.standardisation.of_tasks.tasks.tolist() == [0, 1]  # type: ignore[union-attr]
