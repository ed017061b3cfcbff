"""The contract of strategies: every check runs on every strategy of the catalogue alike."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch

from insitu.component import catalogue, find
from insitu.errors import OperatorError
from insitu.normalisation import Normaliser
from insitu.strategies.base import Observation, Strategy
from insitu.trainer import Trainer
from learning import (
    LIVELY,
    OBJECTIVES,
    Setup,
    assert_same,
    copied,
    is_defined,
    make_batch,
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
    plain, with_it = Setup().trainer(), Setup(strategies=(name,)).trainer()
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
    trainer = lively(name, "regress")
    batch = make_batch("regress", 5, seed=3)
    augmented = trainer.strategies[name].augment(batch)
    for field, tensor in batch.fields.items():
        assert augmented.fields[field].dtype == tensor.dtype
        assert augmented.fields[field].device == tensor.device
        assert torch.equal(augmented.fields[field][:5], tensor)
    assert augmented.fresh_rows == 5
    penalty = trainer.strategies[name].penalty(augmented, torch.zeros(5, 3))
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


@pytest.mark.parametrize("pair", list(permutations(STRATEGIES, 2)), ids="+".join)
@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_any_two_compose_and_learn(pair: tuple[str, str], objective: str) -> None:
    trainer = Setup(objective, pair, schedule=None).trainer()
    losses = run(trainer, objective, range(2), batches=60, rows=32)
    assert trainer.skipped_steps == 0
    assert sum(losses[50:60]) < 0.9 * sum(losses[:10])


@pytest.mark.parametrize("name", STRATEGIES)
def test_it_is_made_without_a_normaliser(name: str) -> None:
    objective = make_objective("classify")
    model = make_model(objective)
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
