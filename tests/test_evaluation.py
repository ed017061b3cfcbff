"""Probes by task, and the matrix: averages, forgetting and backward transfer, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from insitu.batch import Batch, Column, SampleFlag
from insitu.component import catalogue
from insitu.evaluation import EvaluationMatrix, ProbeSets, divide
from insitu.schema import Schema
from learning import Setup, assert_same, copied, generator, make_batch

# probes


@given(st.lists(st.booleans(), min_size=1, max_size=12), st.data())
def test_dividing_separates_probes_and_keeps_the_order(
    flags: list[bool], data: st.DataObject
) -> None:
    batch = Batch.of({"x": torch.arange(len(flags))})
    batch.provenance[:, Column.FLAGS] = torch.tensor(flags).long() * SampleFlag.EVALUATE
    batch = Batch(batch.fields, batch.provenance, data.draw(st.integers(0, len(flags))))
    trained, probes = divide(batch)
    assert trained.fields["x"].tolist() == [n for n, probe in enumerate(flags) if not probe]
    assert probes.fields["x"].tolist() == [n for n, probe in enumerate(flags) if probe]
    assert trained.fresh_rows == sum(not probe for probe in flags[: batch.fresh_rows])


def test_probes_are_measured_by_task_over_all_their_rows() -> None:
    trainer = Setup("regress").trainer()
    trainer.step(make_batch("regress", 32, seed=0))
    probes = ProbeSets(100, generator(0))
    for task in (3, 1):
        for part in range(2):
            probes.add(make_batch("regress", 20, seed=10 * task + part, task=task))
    results = probes.evaluate(trainer)
    assert list(results) == [3, 1]
    assert probes.counts() == {3: 40, 1: 40}
    for task, figures in results.items():
        parts = [make_batch("regress", 20, seed=10 * task + part, task=task) for part in range(2)]
        whole = {n: torch.cat([part.fields[n] for part in parts]) for n in ("x", "y")}
        expected = trainer.evaluate(Batch.of(whole)).figures()
        assert figures == pytest.approx(expected, rel=1e-5)
        assert set(figures) == {"loss", "rmse", "relative_error"}


def test_probes_are_bounded_and_restored() -> None:
    probes = ProbeSets(5, generator(0))
    probes.add(make_batch("classify", 30, seed=0))
    probes.add(make_batch("classify", 0, seed=0))
    assert probes.counts() == {0: 5}
    other = ProbeSets(5, generator(9))
    other.load_state_dict(copied(probes.state_dict()))
    for each in (probes, other):
        each.add(make_batch("classify", 30, seed=1))
    assert_same(copied(probes.state_dict()), copied(other.state_dict()))


def test_the_headline_tells_which_way_is_up() -> None:
    schema = Schema.of({"x": ("float32", (4,)), "y": ("int64", ()), "target": ("float32", (4,))})
    chosen: dict[str, dict[str, object]] = {
        "classify": {"classes": 4},
        "regress": {"target": "target"},
        "forecast": {"target": "target"},
        "reconstruct": {},
    }
    for name, options in chosen.items():
        objective = catalogue("insitu.objectives")[name].build(options, {"schema": schema})
        batch = Batch.of(
            {"x": torch.randn(3, 4), "y": torch.tensor([0, 1, 2]), "target": torch.randn(3, 4)}
        )
        good, bad = (objective.real(batch, "x"), objective.real(batch, "x") * -50.0)
        if name == "classify":
            good = torch.eye(4)[batch.fields["y"]]
            bad = -good
        elif name in ("regress", "forecast"):
            good = batch.fields["target"]
        score, higher_is_better = objective.headline
        better = objective.scores(good, batch)[score].item()
        worse = objective.scores(bad, batch)[score].item()
        assert (better > worse) == higher_is_better
        assert better != worse


# the matrix


def filled(*, higher_is_better: bool) -> EvaluationMatrix:
    sign = 1.0 if higher_is_better else -1.0
    matrix = EvaluationMatrix("figure", higher_is_better=higher_is_better)
    matrix.record(7, {7: sign * 0.9})
    matrix.record(2, {7: sign * 0.95, 2: sign * 0.8})
    matrix.record(5, {7: sign * 0.5, 2: sign * 0.7, 5: sign * 0.6})
    return matrix


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_the_figures_of_a_matrix_by_hand(higher_is_better: bool) -> None:
    matrix = filled(higher_is_better=higher_is_better)
    sign = 1.0 if higher_is_better else -1.0
    assert matrix.tasks == matrix.learned() == [7, 2, 5]
    assert matrix.table()[1] == [sign * 0.95, sign * 0.8, None]
    assert matrix.right_after_learning(7) == sign * 0.9
    assert matrix.at_the_end(7) == sign * 0.5
    assert matrix.average() == pytest.approx(sign * (0.5 + 0.7 + 0.6) / 3)
    # the best before counts, which was not the one right after learning
    assert matrix.forgetting_of(7) == pytest.approx(0.45)
    assert matrix.forgetting_of(2) == pytest.approx(0.1)
    assert matrix.forgetting() == pytest.approx((0.45 + 0.1) / 2)
    assert matrix.backward_transfer() == pytest.approx((-0.4 - 0.1) / 2)


def test_a_task_that_is_learned_again_counts_from_its_last_end() -> None:
    matrix = filled(higher_is_better=True)
    matrix.record(7, {7: 0.85, 2: 0.6, 5: 0.6})
    assert matrix.ended == [7, 2, 5, 7]
    assert matrix.learned() == [7, 2, 5]
    assert matrix.right_after_learning(7) == 0.85
    assert matrix.forgetting() == pytest.approx((0.2 + 0.0) / 2)


def test_an_empty_matrix_has_no_figures() -> None:
    matrix = EvaluationMatrix("figure", higher_is_better=True)
    assert matrix.table() == []
    for value in (matrix.average(), matrix.forgetting(), matrix.backward_transfer()):
        assert math.isnan(value)
    matrix.record(0, {0: 0.5})
    assert matrix.average() == 0.5
    assert math.isnan(matrix.forgetting())
    assert math.isnan(matrix.right_after_learning(1))


def test_a_task_without_probes_is_left_out_of_the_means() -> None:
    matrix = EvaluationMatrix("figure", higher_is_better=True)
    matrix.record(0, {})
    matrix.record(1, {1: 0.5})
    matrix.record(2, {1: 0.25, 2: 1.0})
    assert matrix.average() == pytest.approx(0.625)
    assert matrix.forgetting() == pytest.approx(0.25)


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_a_matrix_is_restored(higher_is_better: bool) -> None:
    matrix = filled(higher_is_better=higher_is_better)
    other = EvaluationMatrix("other", higher_is_better=not higher_is_better)
    other.load_state_dict(copied(matrix.state_dict()))
    assert_same(copied(other.state_dict()), copied(matrix.state_dict()))
    assert other.forgetting() == matrix.forgetting()
