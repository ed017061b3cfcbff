"""The audit of drawn rows, against SplitMix64 in plain whole numbers."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from insitu.stream.audit import added, removed, row_sum

_WORD = (1 << 64) - 1


def _splitmix64(state: int) -> int:
    """From the paper: the next output of a generator whose state is `state`."""
    z = (state + 0x9E3779B97F4A7C15) & _WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _WORD
    return z ^ (z >> 31)


def _sum(pairs: list[tuple[int, int]]) -> int:
    records, rows = zip(*pairs, strict=True) if pairs else ((), ())
    return row_sum(np.array(records, np.int64), np.array(rows, np.int64))


_PAIRS = st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)), max_size=50)


def test_the_reference_is_splitmix64() -> None:
    """First outputs for seed 0, as published with the generator."""
    gamma = 0x9E3779B97F4A7C15
    outputs = [_splitmix64(gamma * n & _WORD) for n in range(3)]
    assert outputs == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


@given(_PAIRS)
def test_sum_is_exact(pairs: list[tuple[int, int]]) -> None:
    expected = sum(_splitmix64(record << 32 | row) for record, row in pairs) & _WORD
    assert _sum(pairs) == expected


@given(_PAIRS, st.randoms(use_true_random=False))
def test_order_does_not_matter_and_parts_add_up(pairs: list[tuple[int, int]], random) -> None:
    whole = _sum(pairs)
    random.shuffle(pairs)
    cut = random.randint(0, len(pairs))
    first, second = _sum(pairs[:cut]), _sum(pairs[cut:])
    assert _sum(pairs) == whole == added(first, second)
    assert removed(whole, second) == first


def test_a_row_twice_or_missing_or_another_is_seen() -> None:
    rows = [(5, row) for row in range(100)]
    whole = _sum(rows)
    others = [[*rows, rows[3]], rows[1:], [*rows[1:], (5, 100)], [*rows[1:], (6, 0)]]
    assert all(_sum(other) != whole for other in others)


def test_inputs_are_left_alone() -> None:
    records, rows = np.array([1, 2]), np.array([3, 4])
    row_sum(records, rows)
    assert records.tolist() == [1, 2]
    assert rows.tolist() == [3, 4]
