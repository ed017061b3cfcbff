"""Reservoir sampling: the probabilities, against algorithm R one row at a time."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency, chisquare

from inclusion import inclusion_pvalue
from insitu.batch import Batch, Column
from insitu.memory.reservoir import Reservoir
from insitu.sampling import Indices


def _held(memory: Reservoir) -> list[int]:
    return memory.provenance[:, Column.ROW].tolist()


def _fill(generator: torch.Generator, capacity: int, sizes: list[int]) -> list[int]:
    memory = Reservoir(capacity, torch.device("cpu"), generator)
    added = 0
    for rows in sizes:
        batch = Batch.of({"x": torch.zeros(rows)})
        batch.provenance[:, Column.ROW] += added
        memory.add(batch)
        added += rows
    return _held(memory)


def _algorithm_r(rng: np.random.Generator, capacity: int, samples: int) -> list[int]:
    """Vitter's algorithm R as published, one sample after the other."""
    held: list[int] = []
    for number in range(samples):
        if number < capacity:
            held.append(number)
        else:
            slot = int(rng.integers(number + 1))
            if slot < capacity:
                held[slot] = number
    return held


@pytest.mark.parametrize("sizes", [[1] * 24, [24], [3, 10, 1, 10], [7, 17]])
def test_every_sample_is_kept_with_the_same_probability(sizes: list[int]) -> None:
    generator, counts = torch.Generator().manual_seed(1), Counter[int]()
    for _ in range(1200):
        counts.update(_fill(generator, 6, sizes))
    assert sum(counts.values()) == 1200 * 6
    assert inclusion_pvalue([counts[number] for number in range(24)], 6) > 1e-4


class _Biased(Reservoir):
    """Lets a sample in with probability (capacity + 1) / n, not capacity / n."""

    def _place(self, batch: Batch, rows: Indices) -> tuple[Indices, Indices]:
        number = self.offered_samples + 1
        if number <= self.capacity_samples:
            return np.array([number - 1]), rows
        draw = int(torch.rand((), generator=self.generator) * number)
        kept = 1 if draw <= self.capacity_samples else 0
        return np.array([draw % self.capacity_samples])[:kept], rows[:kept]


def test_the_correction_is_what_makes_the_test_see_a_biased_reservoir() -> None:
    generator, counts = torch.Generator().manual_seed(4), Counter[int]()
    batch = Batch.of({"x": torch.zeros(1)})
    for _ in range(900):
        memory = _Biased(27, torch.device("cpu"), generator)
        for number in range(30):
            batch.provenance[:, Column.ROW] = number
            memory.add(batch)
        counts.update(_held(memory))
    found = [counts[number] for number in range(30)]
    assert chisquare(found).pvalue > 0.9  # blind: such counts vary less than independent ones
    assert inclusion_pvalue(found, 27) < 1e-4


def test_every_choice_of_samples_is_equally_likely() -> None:
    generator, outcomes = torch.Generator().manual_seed(2), Counter[tuple[int, ...]]()
    for _ in range(2000):
        outcomes[tuple(sorted(_fill(generator, 2, [3, 3])))] += 1
    assert chisquare([outcomes[pair] for pair in combinations(range(6), 2)]).pvalue > 1e-4


def test_a_batch_at_once_has_the_distribution_of_one_row_after_the_other() -> None:
    """Also of who is in which slot, not only of who is kept."""
    generator, rng = torch.Generator().manual_seed(3), np.random.default_rng(3)
    ours = Counter(tuple(_fill(generator, 2, [1, 4])) for _ in range(3000))
    published = Counter(tuple(_algorithm_r(rng, 2, 5)) for _ in range(3000))
    outcomes = sorted(ours | published)
    table = [[counts[outcome] for outcome in outcomes] for counts in (ours, published)]
    assert chi2_contingency(table).pvalue > 1e-4
