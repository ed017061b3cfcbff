"""Names by which the strategies of a trainer are told apart."""

from __future__ import annotations

from collections.abc import Sequence

from insitu.strategies.base import Strategy


def named(strategies: Sequence[Strategy]) -> dict[str, Strategy]:
    """The strategies by unique names, in their order; sets the name of each."""
    by_name: dict[str, Strategy] = {}
    for strategy in strategies:
        own, count = strategy.name, 1
        while strategy.name in by_name:
            count += 1
            strategy.name = f"{own}_{count}"
        by_name[strategy.name] = strategy
    return by_name
