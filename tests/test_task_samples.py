"""The reservoir of every task: uniform, bounded, seeded, restorable."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from insitu.batch import Batch, Column
from insitu.errors import OperatorError
from insitu.task_samples import Reservoir, TaskSamples
from learning import assert_same, copied, generator


def numbered(start: int, rows: int, *, task: int = 0) -> Batch:
    """Rows that carry their running number in a field and in the provenance."""
    numbers = torch.arange(start, start + rows)
    batch = Batch.of({"n": numbers.to(torch.float64), "v": numbers[:, None] * 2}, task=task)
    batch.provenance[:, Column.ROW] = numbers
    return batch


splits = st.lists(st.integers(0, 12), max_size=12)


@given(splits, st.integers(1, 10), st.integers(0, 2**31))
def test_it_keeps_whole_rows_that_were_added_each_at_most_once(
    split: list[int], capacity: int, seed: int
) -> None:
    reservoir, start = Reservoir(capacity, generator(seed)), 0
    for rows in split:
        reservoir.add(numbered(start, rows))
        start += rows
    assert reservoir.seen == start
    assert len(reservoir) == min(capacity, start)
    kept = reservoir.rows()
    if start:
        numbers = kept.column(Column.ROW).tolist()
        assert len(set(numbers)) == len(numbers) == len(reservoir)
        assert set(numbers) <= set(range(start))
        assert kept.fields["n"].tolist() == numbers
        assert kept.fields["v"].flatten().tolist() == [2 * n for n in numbers]


@pytest.mark.parametrize("split", [[1] * 40, [7, 13, 20], [40]], ids=["ones", "mixed", "one"])
def test_every_row_is_kept_with_the_same_probability(split: list[int]) -> None:
    random, counts = generator(0), torch.zeros(40)
    runs = 600
    for _ in range(runs):
        reservoir, start = Reservoir(8, random), 0
        for rows in split:
            reservoir.add(numbered(start, rows))
            start += rows
        counts[reservoir.rows().column(Column.ROW)] += 1
    # each is kept with p = 8 / 40; the counts are a little less spread than independent ones
    statistic = ((counts - runs * 0.2).square() / (runs * 0.2 * 0.8)).sum().item()
    assert stats.chi2.sf(statistic, 39) > 1e-4
    assert stats.chi2.cdf(statistic, 39) > 1e-4


def test_tasks_have_reservoirs_of_their_own() -> None:
    samples = TaskSamples(3, generator(0))
    mixed = numbered(0, 20)
    mixed.provenance[:, Column.TASK] = torch.arange(20) % 2 * 5
    samples.add(mixed)
    samples.add(numbered(100, 1, task=9))
    assert samples.tasks() == [0, 5, 9]
    assert samples.counts() == {0: 3, 5: 3, 9: 1}
    odd = samples.rows(5)
    assert odd is not None
    assert (odd.fields["n"] % 2 == 1).all()
    samples.forget(5)
    assert samples.rows(5) is None


@given(splits, splits, st.integers(1, 6))
def test_a_restored_one_goes_on_bit_by_bit(
    before: list[int], after: list[int], capacity: int
) -> None:
    whole = TaskSamples(capacity, generator(3))
    for number, rows in enumerate(before):
        whole.add(numbered(100 * number, rows, task=number % 3))
    other = TaskSamples(capacity, generator(4))
    other.add(numbered(0, 5, task=77))
    other.load_state_dict(copied(whole.state_dict()))
    for number, rows in enumerate(after):
        for samples in (whole, other):
            samples.add(numbered(5000 + 100 * number, rows, task=number % 4))
    assert_same(copied(whole.state_dict()), copied(other.state_dict()))


def test_another_capacity_is_refused_with_both_numbers() -> None:
    whole = TaskSamples(5, generator(0))
    whole.add(numbered(0, 9))
    with pytest.raises(OperatorError, match=r"keeps 5 samples.*allowed: 4"):
        TaskSamples(4, generator(0)).load_state_dict(whole.state_dict())


def test_what_it_keeps_is_its_own() -> None:
    batch = numbered(0, 3)
    reservoir = Reservoir(3, generator(0))
    reservoir.add(batch)
    batch.fields["n"].zero_()
    batch.provenance.zero_()
    assert reservoir.rows().fields["n"].tolist() == [0.0, 1.0, 2.0]
    assert reservoir.rows().column(Column.ROW).tolist() == [0, 1, 2]
