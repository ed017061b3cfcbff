"""Comparisons with a floor: medians of ratios, round by round, and bounds in both directions."""

from __future__ import annotations

from insitu_service.bench.comparison import compare, in_turn


def test_the_ratio_is_the_median_of_the_rounds() -> None:
    result = compare("x", "MB/s", [1.0, 10.0, 3.0], [2.0, 5.0, 4.0], target=0.7, at_least=True)
    assert (result.value, result.floor, result.ratio) == (3.0, 4.0, 0.75)
    assert result.reached


def test_a_cost_is_reached_from_above() -> None:
    assert not compare("x", "s", [3.0], [1.0], target=2.0, at_least=False).reached
    assert compare("x", "s", [2.0], [1.0], target=2.0, at_least=False).reached


def test_measures_run_in_turn() -> None:
    order: list[str] = []

    def measure(name: str) -> float:
        order.append(name)
        return float(len(order))

    results = in_turn(2, lambda: measure("a"), lambda: measure("b"))
    assert order == ["a", "b", "a", "b"]
    assert results == [[1.0, 3.0], [2.0, 4.0]]
