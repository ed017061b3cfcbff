"""What a network does to connections, and when: a schedule drawn from a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class NetworkFault(StrEnum):
    """One at a time, for some seconds."""

    CALM = "calm"  # everything goes through at once
    DELAY = "delay"  # everything arrives later
    THROTTLE = "throttle"  # little goes through
    CUT = "cut"  # all connections end, some by a reset
    HALF_OPEN = "half_open"  # nothing goes through, and nobody is told
    REORDER = "reorder"  # connections end, and what was under way arrives after their successors


@dataclass(frozen=True)
class Weather:
    """A fault and how long it lasts.

    Args:
        amount: seconds of delay, or bytes a second that a throttle lets through.
    """

    fault: NetworkFault
    seconds: float
    amount: float = 0.0


def schedule(seed: int, *, half_open_seconds: float = 0.5) -> Iterator[Weather]:
    """Faults with calm between them, for ever.

    Args:
        half_open_seconds: longest; beyond five heartbeats producers make a new connection.

    Example:
        >>> first = schedule(1)
        >>> [next(first).fault.value for _ in range(4)]
        ['calm', 'delay', 'calm', 'half_open']
    """
    source = random.Random(seed)
    faults = [fault for fault in NetworkFault if fault is not NetworkFault.CALM]
    while True:
        yield Weather(NetworkFault.CALM, source.uniform(0.05, 0.2))
        fault = source.choice(faults)
        if fault is NetworkFault.DELAY:
            yield Weather(fault, source.uniform(0.1, 0.5), source.uniform(0.01, 0.3))
        elif fault is NetworkFault.THROTTLE:
            yield Weather(fault, source.uniform(0.1, 0.5), source.uniform(2_000, 200_000))
        elif fault is NetworkFault.HALF_OPEN:
            yield Weather(fault, source.uniform(0.05, half_open_seconds))
        else:
            yield Weather(fault, 0.0, source.uniform(0.05, 0.5))
