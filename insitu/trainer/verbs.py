"""Which strategies have which verb: what a class does not override is never called."""

from __future__ import annotations

from collections.abc import Sequence

from insitu.strategies.base import Strategy


class Verbs:
    """By verb, the strategies that override it, in their order.

    Example:
        >>> class Watcher(Strategy):
        ...     def observe(self, observation):
        ...         print(observation.step)
        >>> verbs = Verbs([Strategy(), Watcher()])
        >>> len(verbs.observe), len(verbs.augment)
        (1, 0)
    """

    def __init__(self, strategies: Sequence[Strategy]) -> None:
        self.augment = _having("augment", strategies)
        self.losses = _having("losses", strategies)
        self.penalty = _having("penalty", strategies)
        self.adjust_gradients = _having("adjust_gradients", strategies)
        self.adjust_weights = _having("adjust_weights", strategies)
        self.observe = _having("observe", strategies)


def _having(verb: str, strategies: Sequence[Strategy]) -> tuple[Strategy, ...]:
    return tuple(s for s in strategies if getattr(type(s), verb) is not getattr(Strategy, verb))
