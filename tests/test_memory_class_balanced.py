"""Class-balancing reservoir sampling: against the published algorithm, and what it is for."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2_contingency

from inclusion import inclusion_pvalue
from insitu.batch import Batch, Column
from insitu.errors import OperatorError
from insitu.memory.class_balanced import ClassBalanced

_CPU = torch.device("cpu")


def _batch(labels: list[int], start: int = 0, task: int = 0) -> Batch:
    batch = Batch.of({"y": torch.tensor(labels)}, task=task)
    batch.provenance[:, Column.ROW] += start
    return batch


def _memory(capacity: int, seed: int = 0, **options: str | int) -> ClassBalanced:
    return ClassBalanced(capacity, _CPU, torch.Generator().manual_seed(seed), **options)  # type: ignore[arg-type]


def _cbrs(rng: np.random.Generator, capacity: int, labels: list[int]) -> list[int]:
    """Algorithm 1 of Chrysakis and Moens (2020), sample by sample; the numbers it keeps."""
    held: list[int] = []
    full: set[int] = set()
    offered: Counter[int] = Counter()
    for number, label in enumerate(labels):
        offered[label] += 1
        if len(held) < capacity:
            held.append(number)
            continue
        sizes = Counter(labels[kept] for kept in held)
        most = max(sizes.values())
        largest = [other for other in sizes if sizes[other] == most]
        full.update(largest)
        if label not in full:
            victim = largest[int(rng.integers(len(largest)))]
            places = [i for i, kept in enumerate(held) if labels[kept] == victim]
        elif rng.random() <= sizes[label] / offered[label]:
            places = [i for i, kept in enumerate(held) if labels[kept] == label]
        else:
            continue
        held[places[int(rng.integers(len(places)))]] = number
    return held


@pytest.mark.parametrize("cut", [[0, 12], [0, 5, 6, 12]])
def test_it_keeps_what_the_published_algorithm_keeps(cut: list[int]) -> None:
    labels = [0, 0, 0, 1, 0, 2, 1, 0, 2, 2, 0, 1]
    generator, rng = torch.Generator().manual_seed(1), np.random.default_rng(1)
    ours: Counter[tuple[int, ...]] = Counter()
    for _ in range(1500):
        memory = ClassBalanced(3, _CPU, generator)
        for start, end in pairwise(cut):
            memory.add(_batch(labels[start:end], start))
        ours[tuple(sorted(memory.provenance[:, Column.ROW].tolist()))] += 1
    published = Counter(tuple(sorted(_cbrs(rng, 3, labels))) for _ in range(1500))
    common = sorted(key for key in ours | published if ours[key] + published[key] >= 20)
    table = [
        [*(counts[key] for key in common), 1 + sum(counts[k] for k in counts if k not in common)]
        for counts in (ours, published)
    ]
    assert chi2_contingency(table).pvalue > 1e-4


def test_rare_classes_keep_their_place_however_frequent_the_others_are() -> None:
    memory = _memory(30)
    rng = np.random.default_rng(2)
    for start in range(0, 4000, 40):
        labels = rng.choice(4, size=40, p=[0.9, 0.06, 0.03, 0.01]).tolist()
        memory.add(_batch(labels, start))
    sample = memory.sample(30)
    assert sample is not None
    counts = Counter(sample.fields["y"].tolist())
    assert set(counts) == {0, 1, 2, 3}
    assert max(counts.values()) - min(counts.values()) <= 1


def test_within_a_class_every_sample_is_kept_alike() -> None:
    counts: Counter[int] = Counter()
    generator = torch.Generator().manual_seed(3)
    for _ in range(800):
        memory = ClassBalanced(4, _CPU, generator)
        memory.add(_batch([0] * 20))
        counts.update(memory.provenance[:, Column.ROW].tolist())
    assert inclusion_pvalue([counts[number] for number in range(20)], 4) > 1e-4


@given(
    capacity=st.integers(4, 30),
    labels=st.lists(st.integers(-1, 2), min_size=1, max_size=200),
    rows=st.integers(1, 40),
)
def test_classes_that_had_enough_differ_by_one_at_most(
    capacity: int, labels: list[int], rows: int
) -> None:
    memory = _memory(capacity)
    for start in range(0, len(labels), rows):
        memory.add(_batch(labels[start : start + rows], start))
    held = Counter(labels[number] for number in memory.provenance[:, Column.ROW].tolist())
    offered, most = Counter(labels), max(held.values())
    for label, count in offered.items():
        assert held[label] >= min(most - 1, count)


def test_a_batch_placed_at_once_is_placed_as_row_by_row() -> None:
    at_once, one_by_one = _memory(9, seed=8), _memory(9, seed=8)
    for memory in (at_once, one_by_one):
        memory.add(_batch([0, 1, 2] * 10))
    one_by_one._place_in_full = lambda numbers, draws: np.array(  # type: ignore[method-assign]
        [one_by_one._place_one(*row) for row in zip(numbers.tolist(), draws.tolist(), strict=True)]
    )
    for start in range(30, 600, 12):
        for memory in (at_once, one_by_one):
            memory.add(_batch([0, 1, 0, 2, 2, 2, 1, 0, 0, 2, 1, 1], start))
    assert torch.equal(at_once.provenance, one_by_one.provenance)
    assert at_once.provenance[:, Column.ROW].max() > 30


def test_classes_that_come_when_there_are_more_than_slots_take_a_place() -> None:
    memory = _memory(3)
    memory.add(_batch([0, 1, 2, 3, 4, 5]))
    held = memory.provenance[:, Column.ROW].tolist()
    assert len(set(held)) == 3
    assert 5 in held


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int16, torch.uint16, torch.int64])
def test_labels_may_be_any_whole_number_in_a_field_of_one(dtype: torch.dtype) -> None:
    memory = _memory(4, label="kind")
    memory.add(Batch.of({"kind": torch.tensor([[0], [1]] * 20).to(dtype)}))
    sample = memory.sample(4)
    assert sample is not None
    assert sorted(sample.fields["kind"].to(torch.int64).flatten().tolist()) == [0, 0, 1, 1]


def test_labels_that_are_none_are_the_operators_fault() -> None:
    with pytest.raises(OperatorError, match="label field 'z' is not in the stream; allowed: y"):
        _memory(4, label="z").add(_batch([1]))
    for field in (torch.zeros(2), torch.zeros(2, 3, dtype=torch.int64)):
        with pytest.raises(OperatorError, match="one whole number or bool a sample"):
            _memory(4).add(Batch.of({"y": field}))
    with pytest.raises(OperatorError, match="label 2 would be class number 3"):
        _memory(4, most_classes=2).add(_batch([0, 1, 2]))
