"""Pace: the corridor equation, exactly, for any history."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insitu.errors import OperatorError
from insitu.stream.pacing import FixedPace, FreePace

_RATIOS = st.sampled_from([0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.7, 10.0])


@given(
    _RATIOS, st.integers(1, 100), st.integers(0, 50), st.integers(0, 10**12), st.integers(0, 10**12)
)
def test_fixed_asks_for_exactly_what_the_equation_needs(
    ratio: float, batch_size: int, watermark: int, sampled: int, inserted: int
) -> None:
    wanted = FixedPace(ratio).wanted(
        inserted=inserted, sampled=sampled, batch_size=batch_size, watermark=watermark, arrived=0
    )
    exact = Fraction(str(ratio))

    def allowed(inserts: int) -> bool:
        return (inserts - watermark) * exact - sampled >= batch_size

    assert wanted >= 0
    assert allowed(inserted + wanted)
    assert wanted == 0 or not allowed(inserted + wanted - 1)


@given(_RATIOS, st.integers(1, 64), st.integers(0, 30))
def test_fixed_keeps_the_ratio_and_never_wants_more_at_once_than_it_says(
    ratio: float, batch_size: int, watermark: int
) -> None:
    pace, inserted, sampled = FixedPace(ratio), 0, 0
    for step in range(50):
        wanted = pace.wanted(
            inserted=inserted,
            sampled=sampled,
            batch_size=batch_size,
            watermark=watermark,
            arrived=10_000,
        )
        assert step == 0 or wanted <= pace.most_wanted(batch_size)
        inserted += wanted
        sampled += batch_size
        difference = (inserted - watermark) * Fraction(str(ratio)) - sampled
        assert 0 <= difference < Fraction(str(ratio))


@given(_RATIOS, st.integers(0, 10**6))
def test_what_inserts_are_worth_is_rounded_down(ratio: float, inserts: int) -> None:
    assert FixedPace(ratio).worth(inserts) == int(inserts * Fraction(str(ratio)))


def test_fixed_waits_for_ever_and_free_admits_all_that_arrived() -> None:
    assert FixedPace().linger_seconds is None
    assert FixedPace().most_draws is None
    pace = FreePace(2.9, 0.5)
    assert (pace.linger_seconds, pace.most_draws) == (0.5, 2)
    for arrived in (0, 7):
        assert (
            pace.wanted(inserted=3, sampled=99, batch_size=8, watermark=5, arrived=arrived)
            == arrived
        )


@pytest.mark.parametrize("ratio", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_ratios_are_refused(ratio: float) -> None:
    with pytest.raises(OperatorError, match="samples_per_insert is"):
        FixedPace(ratio)
    with pytest.raises(OperatorError, match="samples_per_insert is"):
        FreePace(ratio)


def test_free_needs_a_whole_draw_and_a_real_linger() -> None:
    with pytest.raises(OperatorError, match=r"0\.5 with the free pace"):
        FreePace(0.5)
    with pytest.raises(OperatorError, match="linger_seconds is -1"):
        FreePace(1.0, -1.0)
    with pytest.raises(OperatorError, match="linger_seconds is nan"):
        FreePace(1.0, float("nan"))
