"""Drawing distinct things uniformly, in time proportional to how many are drawn."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

Indices = npt.NDArray[np.int64]


def uniform(population: int, count: int, generator: torch.Generator) -> Indices:
    """`count` numbers below `population`, independent and uniform, with repetition."""
    drawn: Indices = torch.randint(population, (count,), generator=generator).numpy()
    return drawn


def distinct(population: int, count: int, generator: torch.Generator) -> Indices:
    """`count` different numbers below `population`; every ordered choice is equally likely.

    Few of many are drawn one after the other and repetitions drawn again, which is the same
    as drawing without replacement; many of few are the head of a permutation.

    Example:
        >>> sorted(distinct(3, 3, torch.Generator().manual_seed(0)).tolist())
        [0, 1, 2]
    """
    if count > population:
        raise ValueError(f"{count} distinct numbers below {population} do not exist")
    if 2 * count >= population:
        head: Indices = torch.randperm(population, generator=generator)[:count].numpy()
        return head
    chosen = _first_appearances(uniform(population, count, generator))
    while len(chosen) < count:
        more = uniform(population, count - len(chosen), generator)
        chosen = _first_appearances(np.concatenate((chosen, more)))
    return chosen


def _first_appearances(numbers: Indices) -> Indices:
    # of few numbers a set is a tenth of the time of np.unique, and mostly there is no repetition
    if len(set(numbers.tolist())) == len(numbers):
        return numbers
    _, first = np.unique(numbers, return_index=True)
    return numbers[np.sort(first)]
