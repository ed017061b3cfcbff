"""A ring per class, against a plain list per class."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from insitu.batch import Batch, Column
from insitu.memory.ring_per_class import RingPerClass


def _batch(labels: list[int], start: int = 0) -> Batch:
    batch = Batch.of({"y": torch.tensor(labels, dtype=torch.int64)})
    batch.provenance[:, Column.ROW] += start
    return batch


def _memory(capacity: int) -> RingPerClass:
    return RingPerClass(capacity, torch.device("cpu"), torch.Generator().manual_seed(0))


def _held(memory: RingPerClass) -> list[int]:
    return sorted(memory.provenance[:, Column.ROW].tolist())


def _newest_of_each(labels: list[int], capacity: int) -> list[int]:
    """Plain lists: a class that is two behind the largest takes from it, else from itself."""
    rings: dict[int, list[int]] = {}
    for number, label in enumerate(labels):
        own = rings.setdefault(label, [])
        if sum(map(len, rings.values())) == capacity:
            largest = max(rings.values(), key=len)
            (own if own and len(own) + 1 >= len(largest) else largest).pop(0)
        own.append(number)
    return sorted(number for ring in rings.values() for number in ring)


@given(
    capacity=st.integers(1, 12),
    labels=st.lists(st.integers(-1, 5), min_size=1, max_size=80),
    rows=st.integers(1, 9),
)
def test_it_keeps_the_newest_of_every_class(capacity: int, labels: list[int], rows: int) -> None:
    memory = _memory(capacity)
    for start in range(0, len(labels), rows):
        memory.add(_batch(labels[start : start + rows], start))
    assert _held(memory) == _newest_of_each(labels, capacity)


def test_what_stays_of_a_class_is_its_last_samples() -> None:
    memory = _memory(6)
    memory.add(_batch([0] * 20 + [1] * 20 + [0] * 5))
    assert _held(memory) == [37, 38, 39, 42, 43, 44]


def test_with_more_classes_than_room_the_newest_classes_stay() -> None:
    memory = _memory(3)
    memory.add(_batch([0, 1, 2, 3, 4]))
    assert _held(memory) == [2, 3, 4]
