"""The contract of strategies: every check runs on every strategy of the catalogue alike."""

from __future__ import annotations

import re
from itertools import combinations, permutations

import pytest
import torch

from insitu.batch import Column, SampleFlag
from insitu.component import catalogue, find
from insitu.criterion import Criterion
from insitu.errors import OperatorError
from insitu.normalisation import Normaliser
from insitu.strategies.base import Observation, Strategy
from insitu.trainer import Trainer
from insitu_service.documentation.pages import PARAGRAPHS, docstring, paragraph
from learning import (
    HEBBIAN,
    LABELLED,
    LIVELY,
    OBJECTIVES,
    Setup,
    assert_same,
    copied,
    is_defined,
    make_batch,
    make_memory,
    make_model,
    make_objective,
    make_strategy,
    stream,
)

STRATEGIES = list(catalogue("insitu.strategies"))


def run(
    trainer: Trainer, objective: str, tasks: range, batches: int = 4, rows: int = 7
) -> list[float]:
    losses = []
    for task in tasks:
        for batch in stream(objective, batches, rows, task=task):
            losses.append(trainer.step(batch).loss.item())
        trainer.end_task(task)
    return losses


def lively(name: str, objective: str = "classify") -> Trainer:
    """A trainer whose strategy has seen two tasks."""
    trainer = Setup(objective, (name,)).trainer()
    run(trainer, objective, range(2))
    return trainer


def test_options_here_are_of_strategies_that_exist() -> None:
    assert set(LIVELY) <= set(STRATEGIES)


#: every strategy with every objective that it is defined for
DEFINED = [
    (name, objective)
    for name in STRATEGIES
    for objective in OBJECTIVES
    if is_defined(name, objective)
]


def test_every_strategy_is_defined_for_an_objective() -> None:
    assert {name for name, _ in DEFINED} == set(STRATEGIES)


def first_objective(name: str) -> str:
    return next(objective for strategy, objective in DEFINED if strategy == name)


@pytest.mark.parametrize("name", STRATEGIES)
def test_it_changes_learning(name: str) -> None:
    plain = Setup(hebbian=name in HEBBIAN).trainer()
    with_it = Setup(strategies=(name,)).trainer()
    run(plain, "classify", range(3))
    run(with_it, "classify", range(3))
    pairs = zip(plain.module.parameters(), with_it.module.parameters(), strict=True)
    assert not all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("name", STRATEGIES)
def test_its_name_is_that_of_its_file(name: str) -> None:
    strategy = lively(name).strategies[name]
    assert isinstance(strategy, Strategy)
    assert strategy.name == name


@pytest.mark.parametrize(("name", "objective"), DEFINED)
def test_state_goes_round_bit_by_bit(name: str, objective: str) -> None:
    trainer = lively(name, objective)
    saved = copied(trainer.strategies[name].state_dict())
    other = Setup(objective, (name,), seed=5).trainer().strategies[name]
    other.load_state_dict(saved)
    assert_same(copied(other.state_dict()), saved)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_fresh_state_goes_round_too(name: str) -> None:
    saved = copied(Setup(strategies=(name,)).trainer().strategies[name].state_dict())
    other = Setup(strategies=(name,), seed=5).trainer().strategies[name]
    other.load_state_dict(saved)
    assert_same(copied(other.state_dict()), saved)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_used_one_can_go_back_to_the_start(name: str) -> None:
    fresh, used = Setup(strategies=(name,)).trainer(), lively(name)
    used.load_state_dict(copied(fresh.state_dict()))
    assert run(used, "classify", range(2)) == run(fresh, "classify", range(2))


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("damage", ["missing", "unknown"])
def test_a_state_with_another_key_is_refused_by_name(name: str, damage: str) -> None:
    strategy = lively(name).strategies[name]
    saved = strategy.state_dict()
    assert saved, "a strategy without state would make this test empty"
    if damage == "missing":
        del saved[next(iter(saved))]
    else:
        saved["surprise"] = 1
    with pytest.raises(OperatorError, match=name):
        strategy.load_state_dict(saved)


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_same_seed_gives_the_same_run(name: str) -> None:
    first, second = lively(name), lively(name)
    assert_same(copied(first.state_dict()), copied(second.state_dict()))


@pytest.mark.parametrize("name", STRATEGIES)
def test_inputs_are_not_modified(name: str) -> None:
    strategy = lively(name).strategies[name]
    batch = make_batch("classify", 7, seed=50)
    outputs, losses = torch.randn(7, 4), torch.rand(7)
    given = {"fields": dict(batch.fields), "provenance": batch.provenance, "outputs": outputs}
    given["losses"] = losses
    before = copied(given)
    strategy.augment(batch)
    strategy.penalty(batch, outputs)
    strategy.observe(Observation(batch, outputs, losses, 1))
    strategy.end_task(0)
    assert_same(given, before)


@pytest.mark.parametrize("name", STRATEGIES)
def test_it_keeps_its_own_copies_of_what_it_saw(name: str) -> None:
    """Batches are views of a block that the next draw overwrites."""
    untouched, overwritten = (
        Setup(strategies=(name,)).trainer(),
        Setup(strategies=(name,)).trainer(),
    )
    for batch in stream("classify", 6):
        untouched.step(batch)
    for batch in stream("classify", 6):
        overwritten.step(batch)
        for tensor in (*batch.fields.values(), batch.provenance):
            tensor.zero_()
    assert_same(copied(untouched.state_dict()), copied(overwritten.state_dict()))


@pytest.mark.parametrize("name", STRATEGIES)
def test_device_and_dtype_are_kept(name: str) -> None:
    objective = first_objective(name)
    trainer = lively(name, objective)
    batch = make_batch(objective, 5, seed=3)
    augmented = trainer.strategies[name].augment(batch)
    for field, tensor in batch.fields.items():
        assert augmented.fields[field].dtype == tensor.dtype
        assert augmented.fields[field].device == tensor.device
        assert torch.equal(augmented.fields[field][:5], tensor)
    assert augmented.fresh_rows == 5
    outputs = torch.zeros(augmented.rows, *trainer.objective.output_shape, requires_grad=True)
    penalty = trainer.strategies[name].penalty(augmented, outputs)
    if penalty is not None:
        assert (penalty.shape, penalty.dtype) == ((), torch.float32)
        assert penalty.requires_grad


@pytest.mark.parametrize(("name", "objective"), DEFINED)
def test_batches_of_one_sample_train(name: str, objective: str) -> None:
    trainer = Setup(objective, (name,)).trainer()
    for task in range(3):
        for batch in stream(objective, 3, rows=1, task=task):
            assert not trainer.step(batch).skipped
        trainer.end_task(task)


@pytest.mark.parametrize("name", STRATEGIES)
def test_ending_a_task_that_never_was_does_nothing(name: str) -> None:
    trainer = lively(name)
    before = copied(trainer.state_dict())
    trainer.end_task(77)
    assert_same(copied(trainer.state_dict()), before)


@pytest.mark.parametrize("name", STRATEGIES)
def test_an_unknown_option_is_refused_by_name(name: str) -> None:
    with pytest.raises(OperatorError, match=f"{name}.*no_such_option: no such option"):
        find("insitu.strategies", name).check({"no_such_option": 1})


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_option_is_described(name: str) -> None:
    for option, field in find("insitu.strategies", name).options.model_fields.items():
        assert field.description, option


@pytest.mark.parametrize("name", STRATEGIES)
def test_metrics_are_numbers(name: str) -> None:
    for strategy in (
        lively(name).strategies[name],
        Setup(strategies=(name,)).trainer().strategies[name],
    ):
        for figure, value in strategy.metrics().items():
            assert float(value) == float(value), figure


#: every two on the objective that most are defined for, and neighbours in both orders on the others
PAIRS = [
    (one, other, objective)
    for objective in OBJECTIVES
    for one, other in (
        combinations(STRATEGIES, 2)
        if objective == "classify"
        else permutations([name for name, o in DEFINED if o == objective][:3], 2)
    )
    if {(one, objective), (other, objective)} <= set(DEFINED)
]


@pytest.mark.parametrize(("one", "other", "objective"), PAIRS)
def test_any_two_compose_and_learn(one: str, other: str, objective: str) -> None:
    trainer = Setup(objective, (one, other), schedule=None, learning_rate=0.03).trainer()
    losses = run(trainer, objective, range(2), batches=16, rows=24)
    assert trainer.skipped_steps == 0
    assert sum(losses[12:16]) < 0.95 * sum(losses[:4])


@pytest.mark.parametrize("name", STRATEGIES)
def test_it_is_made_without_a_normaliser(name: str) -> None:
    objective = make_objective("classify")
    model = make_model(objective, hebbian=name in HEBBIAN)
    assert make_strategy(name, model, objective, None).name == name
    normaliser = Normaliser(OBJECTIVES["classify"][0], objective.statistics_of)
    assert make_strategy(name, model, objective, normaliser).name == name


def test_the_base_strategy_does_nothing_and_has_no_state() -> None:
    strategy, batch = Strategy(), make_batch("classify", 3, seed=0)
    assert strategy.augment(batch) is batch
    assert strategy.penalty(batch, torch.zeros(3)) is None
    assert strategy.state_dict() == {}
    assert strategy.metrics() == {}
    with pytest.raises(OperatorError, match="holds surprise"):
        strategy.load_state_dict({"surprise": 1})


# what is written about it


@pytest.mark.parametrize("name", STRATEGIES)
def test_its_page_says_what_it_costs_what_it_keeps_and_when_to_use_it(name: str) -> None:
    text = docstring(catalogue("insitu.strategies")[name])
    for begin in PARAGRAPHS:
        assert paragraph(text, begin), f"the docstring of {name}.py has no paragraph {begin!r}"
    assert re.search(r"\b(19|20)\d\d\b", text), "it names no paper and year"


@pytest.mark.parametrize(("name", "objective"), DEFINED)
def test_every_figure_is_declared_with_its_meaning(name: str, objective: str) -> None:
    strategy = lively(name, objective).strategies[name]
    found = strategy.metrics()
    assert found, "a method without any figure cannot be watched"
    assert set(found) <= set(strategy.figures)
    assert all(len(meaning) > 10 for meaning in strategy.figures.values())


# what may come


def small_memory(name: str, objective: str, capacity: int) -> Trainer:
    trainer = Setup(objective, (name,), memory_samples=capacity).trainer()
    run(trainer, objective, range(3))
    return trainer


@pytest.mark.parametrize(("name", "objective"), DEFINED)
@pytest.mark.parametrize("capacity", [1, 3])
def test_a_memory_smaller_than_a_batch_and_than_the_classes_works(
    name: str, objective: str, capacity: int
) -> None:
    trainer = small_memory(name, objective, capacity)
    assert trainer.skipped_steps == 0
    assert trainer.is_finite()
    memory = getattr(trainer.strategies[name], "memory", None)
    if memory is not None:
        assert len(memory) <= capacity


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_class_never_seen_before_may_come_at_any_time(name: str) -> None:
    objective = first_objective(name)
    trainer = Setup(objective, (name,)).trainer()
    for number in range(8):
        batch = make_batch(objective, 7, seed=number, task=number // 4)
        if "y" in batch.fields and not batch.fields["y"].is_floating_point():
            label = torch.full_like(batch.fields["y"], number // 2)
            batch = batch.with_fields({**batch.fields, "y": label})
        assert not trainer.step(batch).skipped
        if number == 3:
            trainer.end_task(0)
    assert trainer.is_finite()


@pytest.mark.parametrize(("name", "objective"), DEFINED)
def test_a_task_may_end_twice_or_never_or_before_its_samples(name: str, objective: str) -> None:
    trainer = Setup(objective, (name,)).trainer()
    trainer.end_task(0)
    run(trainer, objective, range(1))
    trainer.end_task(0)
    before = copied(trainer.state_dict())
    trainer.end_task(0)
    assert_same(copied(trainer.state_dict()), before)
    for batch in stream(objective, 3, task=4):  # one that never ends
        assert not trainer.step(batch).skipped
    run(trainer, objective, range(1))
    assert trainer.is_finite()


@pytest.mark.parametrize(("name", "objective"), DEFINED)
def test_tasks_may_be_interleaved_row_by_row(name: str, objective: str) -> None:
    trainer = Setup(objective, (name,)).trainer()
    for number in range(6):
        batch = make_batch(objective, 8, seed=number)
        batch.provenance[:, Column.TASK] = torch.arange(8) % 3
        assert not trainer.step(batch).skipped
    for task in (2, 0):
        trainer.end_task(task)
        run(trainer, objective, range(1, 2))
    assert trainer.is_finite()


@pytest.mark.parametrize(("name", "objective"), DEFINED)
def test_a_gradient_of_zero_does_no_harm(name: str, objective: str) -> None:
    """Rows and weights of zero: every gradient of the first task is zero, or nearly."""
    trainer = Setup(objective, (name,), normalise=False, optimizer="SGD").trainer()
    with torch.no_grad():
        for parameter in trainer.module.parameters():
            parameter.zero_()
    zero = make_batch(objective, 6, seed=0)
    zero = zero.with_fields({key: torch.zeros_like(t) for key, t in zero.fields.items()})
    for _ in range(3):
        trainer.step(zero)
    trainer.end_task(0)
    run(trainer, objective, range(1, 3))
    assert trainer.skipped_steps == 0
    assert trainer.is_finite()


@pytest.mark.parametrize(("name", "objective"), DEFINED)
def test_a_batch_that_is_not_finite_is_skipped_and_leaves_no_trace(
    name: str, objective: str
) -> None:
    trainer = lively(name, objective)
    before = copied(trainer.state_dict()["model"])
    batch = make_batch(objective, 7, seed=99)
    bad = batch.with_fields({**batch.fields, "x": batch.fields["x"] * float("nan")})
    assert trainer.step(bad).skipped
    assert_same(copied(trainer.state_dict()["model"]), before)
    for _ in range(3):
        assert not trainer.step(batch).skipped
    trainer.end_task(2)
    assert trainer.is_finite()


@pytest.mark.parametrize(("name", "objective"), DEFINED)
def test_rows_that_may_not_be_remembered_are_not(name: str, objective: str) -> None:
    trainer = Setup(objective, (name,)).trainer()
    for number in range(5):
        batch = make_batch(objective, 7, seed=number)
        batch.provenance[:, Column.FLAGS] = SampleFlag.NO_REPLAY
        batch.provenance[:, Column.SAMPLE_ID] = 1_000_000 + torch.arange(7)
        assert trainer.step(batch).replayed_samples == 0
    kept = mapped_integers(trainer.strategies[name].state_dict())
    assert not any((tensor >= 1_000_000).any() for tensor in kept)
    trainer.end_task(0)
    assert trainer.is_finite()


def mapped_integers(state: object) -> list[torch.Tensor]:
    """All tensors of whole numbers in a state: provenance is among them."""
    if isinstance(state, torch.Tensor):
        return [] if state.is_floating_point() else [state.to(torch.int64)]
    values = state.values() if isinstance(state, dict) else state if isinstance(state, list) else []
    return [tensor for value in values for tensor in mapped_integers(value)]


@pytest.mark.parametrize("name", STRATEGIES)
def test_several_updates_a_batch_are_resumed_bit_by_bit(name: str) -> None:
    objective = first_objective(name)
    first = Setup(objective, (name,)).trainer(updates_per_batch=3)
    run(first, objective, range(2), batches=2)
    second = Setup(objective, (name,), seed=9).trainer(updates_per_batch=3)
    second.load_state_dict(copied(first.state_dict()))
    assert run(first, objective, range(2, 4)) == run(second, objective, range(2, 4))
    assert_same(copied(first.state_dict()), copied(second.state_dict()))


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name not in HEBBIAN])
def test_with_its_own_options_it_stays_stable_at_a_large_learning_rate(name: str) -> None:
    objective = make_objective("classify")
    model = make_model(objective)
    optimizer = torch.optim.SGD(model.named_parameters(), lr=0.1, momentum=0.9)
    parts = {
        "model": model,
        "objective": objective,
        "criterion": Criterion(model, objective),
        "optimizer": optimizer,
        "device": torch.device("cpu"),
        "schema": LABELLED,
        "generator": torch.Generator().manual_seed(0),
        "memory": make_memory(),
    }
    strategy = catalogue("insitu.strategies")[name].build({}, parts)
    trainer = Trainer(model, objective, optimizer, strategies=[strategy])
    for task in range(4):
        for batch in stream("classify", 30, task=task):
            report = trainer.step(batch)
        trainer.end_task(task)
    assert trainer.skipped_steps == 0
    assert float(report.loss) < 10.0
