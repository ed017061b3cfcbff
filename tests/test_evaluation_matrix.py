"""The figures of the matrix: by hand, and against the formulas over the whole history."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insitu.evaluation import EvaluationMatrix
from insitu.evaluation.matrix import FIGURES
from learning import assert_same, copied


def by_hand(sign: float, *, most_rows: int = 128) -> EvaluationMatrix:
    """Three tasks one after the other, with two evaluations between their ends.

    Results by task 7, 2, 5, as an accuracy; an error (`sign` -1) is that below 0:

        untrained   .1   .2   .3
        end of 7    .9   .3   .1
        between     .7   .5   .1      training 2
        end of 2    .8   .6   .5
        between     .2   .4   .6      training 5
        end of 5    .5   .5   .9
    """
    matrix = EvaluationMatrix("figure", higher_is_better=sign > 0, most_rows=most_rows)

    def row(*results: float) -> dict[int, float]:
        return {task: sign * value for task, value in zip((7, 2, 5), results, strict=True)}

    matrix.record_untrained(row(0.1, 0.2, 0.3))
    matrix.record(7, row(0.9, 0.3, 0.1))
    matrix.observe(row(0.7, 0.5, 0.1), begun=[7, 2])
    matrix.record(2, row(0.8, 0.6, 0.5))
    matrix.observe(row(0.2, 0.4, 0.6), begun=[5])
    matrix.record(5, row(0.5, 0.5, 0.9))
    return matrix


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_every_figure_by_hand(sign: float) -> None:
    figures = by_hand(sign).figures()
    assert figures == pytest.approx(
        {
            "average": sign * (0.5 + 0.5 + 0.9) / 3,
            "learning_average": sign * (0.9 + 0.6 + 0.9) / 3,
            "forgetting": (0.4 + 0.1) / 2,
            "backward_transfer": (-0.4 - 0.1) / 2,
            # task 2 just before: .3 against .2 untrained; task 5: .5 against .3
            "forward_transfer": (0.1 + 0.2) / 2,
            # the tasks begun: 7; 7 and 2; 7 and 2; all; all
            "average_anytime": sign * (0.9 + 0.6 + 0.7 + 0.4 + 1.9 / 3) / 5,
            "average_worst": sign * (0.2 + 0.4) / 2,
            "worst_case": sign * (0.9 / 3 + (2 / 3) * (0.2 + 0.4) / 2),
            # task 7: from .8 to .2; task 2: from .6 to .4
            "largest_drop": (0.6 + 0.2) / 2,
        }
    )
    assert set(figures) == set(FIGURES)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_figures_of_a_task_by_hand(sign: float) -> None:
    matrix = by_hand(sign)
    assert matrix.right_after_learning(7) == sign * 0.9
    assert (matrix.at_the_end(7), matrix.newest(7)) == (sign * 0.5, sign * 0.5)
    assert matrix.worst_of(7) == sign * 0.2
    assert matrix.largest_drop_of(7) == pytest.approx(0.6)
    assert matrix.forward_transfer_of(5) == pytest.approx(0.2)
    assert math.isnan(matrix.forward_transfer_of(7))  # the first task has no row before it
    assert matrix.ends == {7: 1, 2: 1, 5: 1}


def test_before_anything_is_measured_no_figure_is_defined() -> None:
    matrix = EvaluationMatrix("figure", higher_is_better=True)
    assert all(math.isnan(value) for value in matrix.figures().values())
    matrix.record(3, {})
    assert all(math.isnan(value) for value in matrix.figures().values())


def test_results_before_a_task_was_learned_are_no_drop_and_no_worst_case() -> None:
    matrix = EvaluationMatrix("accuracy", higher_is_better=True)
    for result in (0.9, 0.1):
        matrix.observe({1: result})
    matrix.record(1, {1: 0.8})
    assert math.isnan(matrix.worst_of(1))
    assert math.isnan(matrix.largest_drop_of(1))
    assert matrix.worst_case() == 0.8


def test_a_result_that_is_not_a_number_is_no_result() -> None:
    matrix = EvaluationMatrix("accuracy", higher_is_better=True)
    matrix.record(1, {1: 0.8})
    matrix.record(2, {1: math.nan, 2: 0.5})
    matrix.record(3, {1: 0.6, 2: 0.5, 3: 0.9})
    assert matrix.worst_of(1) == 0.6
    assert matrix.largest_drop_of(1) == pytest.approx(0.2)
    assert matrix.forgetting_of(1) == pytest.approx(0.2)


TASKS = (0, 1, 2)
results = st.dictionaries(st.sampled_from(TASKS), st.floats(0, 1), max_size=3)
histories = st.lists(
    st.tuples(st.none() | st.sampled_from(TASKS), results), min_size=1, max_size=40
)


@given(histories, st.booleans())
def test_figures_stay_exact_when_rows_go(
    history: list[tuple[int | None, dict[int, float]]], higher_is_better: bool
) -> None:
    """Against the formulas, from the whole history; with two rows that are kept and with all."""
    small = EvaluationMatrix("figure", higher_is_better=higher_is_better, most_rows=4)
    large = EvaluationMatrix("figure", higher_is_better=higher_is_better, most_rows=1000)
    for matrix in (small, large):
        for ended, measured in history:
            if ended is None:
                matrix.observe(measured)
            else:
                matrix.record(ended, measured)
    assert len(small.table()) <= 4
    wanted = reference(history, 1.0 if higher_is_better else -1.0)
    for matrix in (small, large):
        found = matrix.figures()
        for name, value in wanted.items():
            assert found[name] == pytest.approx(value, nan_ok=True), name
    rows = [measured for ended, measured in history if ended is not None]
    assert large.row_numbers == list(range(len(rows)))
    for number, row in zip(small.row_numbers, small.table(), strict=True):
        assert row == [rows[number].get(task) for task in small.tasks]
    if rows:
        assert small.row_numbers[0] == 0
        assert small.row_numbers[-1] == len(rows) - 1


def reference(
    history: Sequence[tuple[int | None, dict[int, float]]], sign: float
) -> dict[str, float]:
    """The formulas of the page, written out."""
    rows = [(ended, measured) for ended, measured in history if ended is not None]
    learned = list(dict.fromkeys(ended for ended, _ in rows))
    if not rows:
        return dict.fromkeys(("average", "learning_average", "forgetting"), math.nan)
    last, newest = rows[-1]
    before = [task for task in learned if task != last]

    def own(task: int) -> float:
        return [measured for ended, measured in rows if ended == task][-1].get(task, math.nan)

    def since(task: int) -> list[float]:
        """Results from the task's first end on; that of the end itself comes first."""
        first = [ended for ended, _ in history].index(task)
        at_end = [m[task] for _, m in history[: first + 1] if task in m][-1:]
        return at_end + [m[task] for _, m in history[first + 1 :] if task in m]

    def after(task: int) -> list[float]:
        first = [ended for ended, _ in history].index(task)
        return [m[task] for _, m in history[first + 1 :] if task in m]

    def forgotten(task: int) -> float:
        earlier = [sign * m[task] for _, m in rows[:-1] if task in m]
        return max(earlier) - sign * newest[task] if earlier and task in newest else math.nan

    worst = {t: sign * min(sign * r for r in after(t)) for t in before if after(t)}
    drops = [
        max(sign * (a - b) for a, b in zip(since(t), since(t)[1:], strict=False))
        for t in before
        if len(since(t)) > 1
    ]
    newest_of_last = [m[last] for _, m in history if last in m][-1:]
    return {
        "average": mean(newest.get(task, math.nan) for task in learned),
        "learning_average": mean(map(own, learned)),
        "forgetting": mean(map(forgotten, before)),
        "backward_transfer": mean(
            sign * (newest.get(task, math.nan) - own(task)) for task in before
        ),
        "average_worst": mean(worst.values()),
        "worst_case": mean([*newest_of_last, *worst.values()]),
        "largest_drop": mean(drops),
    }


def mean(values: object) -> float:
    known = [value for value in values if not math.isnan(value)]  # type: ignore[attr-defined]
    return math.fsum(known) / len(known) if known else math.nan


@given(histories)
def test_a_restored_matrix_goes_on_alike(
    history: list[tuple[int | None, dict[int, float]]],
) -> None:
    matrix = EvaluationMatrix("figure", higher_is_better=True, most_rows=4)
    other = EvaluationMatrix("other", higher_is_better=False, most_rows=4)
    half = len(history) // 2
    for number, (ended, measured) in enumerate(history):
        if number == half:
            other.load_state_dict(copied(matrix.state_dict()))
        for each in (matrix, other) if number >= half else (matrix,):
            each.observe(measured) if ended is None else each.record(ended, measured)
    assert_same(copied(other.state_dict()), copied(matrix.state_dict()))
