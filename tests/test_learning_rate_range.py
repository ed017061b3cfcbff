"""The learning-rate range test: what it finds, and that nothing is left of it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from insitu.analysis import learning_rate_range
from insitu.analysis.learning_rate_range import LEAST_STEPS, suggestions
from insitu.batch import Batch
from insitu.errors import OperatorError
from learning import Setup, assert_same, copied, stream

SETUPS = [
    Setup("classify", ("replay", "online_ewc"), dropout=0.2),
    Setup("regress", ("replay",), optimizer="SGD", schedule=None),
    Setup("reconstruct", ("online_ewc",), optimizer="RMSprop"),
]


@pytest.mark.parametrize("setup", SETUPS, ids=lambda setup: setup.objective)
@pytest.mark.parametrize("steps_before", [0, 6])
def test_everything_is_as_before_and_learns_as_if_nothing_had_been(
    setup: Setup, steps_before: int
) -> None:
    """A twin that never made the test stays the same, bit by bit, while both learn on."""
    tested, twin = setup.trainer(), setup.trainer()
    batches = list(stream(setup.objective, 30))
    for trainer in (tested, twin):
        torch.manual_seed(1)
        for batch in batches[:steps_before]:
            trainer.step(batch)
        if steps_before:
            trainer.end_task(0)
        if trainer is tested:
            before = copied(trainer.state_dict())
            learning_rate_range(trainer, batches[6:], lowest=1e-5, highest=10.0)
            assert_same(copied(trainer.state_dict()), before)
        for batch in batches[6:]:
            trainer.step(batch)
    assert_same(copied(tested.state_dict()), copied(twin.state_dict()))


def test_it_moves_the_weights_meanwhile_and_leaves_the_batches_alone() -> None:
    trainer = Setup("classify", optimizer="SGD").trainer()
    batches = list(stream("classify", 40))
    kept = [copied(dict(batch.fields)) for batch in batches]
    found = learning_rate_range(trainer, batches, lowest=1e-4, highest=1.0)
    assert found.losses[-1] < found.losses[0] - 0.1
    assert found.rates == pytest.approx(
        [1e-4 * 10 ** (4 * k / 39) for k in range(len(found.rates))], rel=1e-6
    )
    for batch, fields in zip(batches, kept, strict=True):
        assert_same(dict(batch.fields), fields)


def test_it_gives_up_when_the_loss_explodes_and_suggests_less_than_that() -> None:
    """Mean squared error of a linear model diverges above 2 / (largest curvature)."""
    torch.manual_seed(0)
    trainer = Setup("regress", optimizer="SGD", normalise=False).trainer()
    found = learning_rate_range(trainer, list(stream("regress", 80)), lowest=1e-5, highest=1e3)
    assert found.stopped
    assert len(found.rates) < 80
    assert found.suggestion is not None
    assert found.suggestion < found.rates[-1] / 5
    assert all(map(math.isfinite, found.smoothed))


def test_a_loss_that_is_not_finite_ends_it_and_is_no_error() -> None:
    trainer = Setup("regress").trainer(non_finite="stop")
    batches = list(stream("regress", 20))
    bad = batches[15]
    batches[15] = Batch.of({**bad.fields, "y": torch.full_like(bad.fields["y"], math.nan)})
    found = learning_rate_range(trainer, batches)
    assert found.stopped
    assert len(found.losses) == 15
    assert trainer.non_finite == "stop"


def test_groups_keep_their_ratio() -> None:
    trainer = Setup("classify", optimizer="SGD", schedule=None).trainer()
    first, second = list(trainer.module.parameters())[:2]
    trainer.optimizer = torch.optim.SGD(
        [{"params": [first], "lr": 0.1}, {"params": [second], "lr": 0.02}]
    )
    trainer.schedule = None
    seen = []

    def look() -> None:
        seen.append([group["lr"] for group in trainer.optimizer.param_groups])

    learning_rate_range(trainer, list(stream("classify", 12)), beat=look)
    assert len(seen) == 12
    for one, other in seen:
        assert other == pytest.approx(one / 5)
    assert [group["lr"] for group in trainer.optimizer.param_groups] == [0.1, 0.02]


def test_an_error_in_the_middle_restores_too() -> None:
    trainer = Setup("classify").trainer()
    batches = list(stream("classify", 12))
    trainer.step(batches[0])
    before = copied(trainer.state_dict())
    wrong = Batch.of({"x": torch.zeros(3, 99), "y": torch.zeros(3, dtype=torch.int64)})
    with pytest.raises(RuntimeError):
        learning_rate_range(trainer, [*batches, wrong])
    assert_same(copied(trainer.state_dict()), before)
    assert trainer.schedule is not None


@pytest.mark.parametrize(("lowest", "highest"), [(0.0, 1.0), (1.0, 1.0), (1e-3, math.inf)])
def test_rates_that_do_not_rise_are_refused(lowest: float, highest: float) -> None:
    batches = list(stream("classify", LEAST_STEPS))
    with pytest.raises(OperatorError, match="goes from"):
        learning_rate_range(Setup().trainer(), batches, lowest=lowest, highest=highest)


def test_too_few_batches_are_refused() -> None:
    with pytest.raises(OperatorError, match="has 9 batches"):
        learning_rate_range(Setup().trainer(), list(stream("classify", 9)))


def test_suggestions_by_hand() -> None:
    rates = [1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0]
    # falls fastest from 1e-3 to 1e-1, around 1e-2; smallest at 1.0
    assert suggestions(rates, [2.0, 1.9, 1.2, 0.6, 0.5, 3.0]) == (1e-2, 0.1)
    assert suggestions(rates[:2], [2.0, 1.0]) == (1e-3, 1e-4)
    assert suggestions([], []) == (None, None)


@given(st.lists(st.floats(0, 10), min_size=1, max_size=30))
def test_a_suggestion_lies_before_the_minimum(smoothed: list[float]) -> None:
    rates = [10.0 ** (number / 4) for number in range(len(smoothed))]
    steepest, tenth = suggestions(rates, smoothed)
    lowest = smoothed.index(min(smoothed))
    if lowest == 0:
        assert (steepest, tenth) == (None, None)
    else:
        assert steepest is not None
        assert steepest <= rates[lowest]
        assert tenth == rates[lowest] / 10
