"""The short profile of breaking real processes: some kills, a loss of power, a bad network."""

from __future__ import annotations

from pathlib import Path

from chaos.bad_network import through_a_bad_network
from chaos.fairness import SHORT, fairness
from chaos.killing import Killing
from chaos.killing_figures import Plan
from chaos.verdicts import problems


def test_kills_at_random_moments_lose_and_double_nothing(tmp_path: Path) -> None:
    plan = Plan(kills=1, producers=2, producer_kills=1, producer_stops=1, seed=2)
    figures = Killing(tmp_path, plan).run()
    print(figures)
    assert problems(figures) == []
    assert figures.replay_differences == []


def test_losses_of_power_lose_and_double_nothing_that_was_durable(tmp_path: Path) -> None:
    plan = Plan(kills=2, producers=2, level="durable", power=True, seed=4)
    figures = Killing(tmp_path, plan).run()
    print(figures)
    assert problems(figures) == []


def test_behind_a_bad_network_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    figures = through_a_bad_network(tmp_path, 5.0, seed=7)
    print(figures)
    assert problems(figures) == []


def test_many_producers_get_the_same_and_a_bad_one_among_them_loses_nobody_a_row(
    tmp_path: Path,
) -> None:
    figures = fairness(tmp_path, SHORT)
    print(figures)
    assert problems(figures) == []
