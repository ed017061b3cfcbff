"""Drawing distinct numbers: different, in range, uniform in every place, repeatable."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from insitu.sampling import distinct, uniform


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.integers(0, 200), st.data(), st.integers(0, 2**31))
def test_distinct_numbers_below_the_population(
    population: int, data: st.DataObject, seed: int
) -> None:
    count = data.draw(st.integers(0, population))
    drawn = distinct(population, count, _seeded(seed))
    assert len(drawn) == len(set(drawn.tolist())) == count
    assert all(0 <= number < population for number in drawn.tolist())
    assert drawn.tolist() == distinct(population, count, _seeded(seed)).tolist()


def test_more_than_there_are_is_an_error() -> None:
    with pytest.raises(ValueError, match="5 distinct numbers below 4"):
        distinct(4, 5, _seeded(0))


@pytest.mark.parametrize(("population", "count"), [(7, 2), (4, 3)])
def test_every_ordered_choice_is_equally_likely(population: int, count: int) -> None:
    generator = _seeded(1)
    outcomes = dict.fromkeys(permutations(range(population), count), 0)
    for _ in range(4000):
        outcomes[tuple(distinct(population, count, generator).tolist())] += 1
    assert chisquare(list(outcomes.values())).pvalue > 1e-4


def test_uniform_is_uniform() -> None:
    counts = np.bincount(uniform(50, 20_000, _seeded(2)), minlength=50)
    assert chisquare(counts).pvalue > 1e-4
