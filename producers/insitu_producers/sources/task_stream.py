"""A stream of tasks with its description: what it holds, in which tasks, and how to push it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from insitu.errors import OperatorError
from insitu_producers.sources.feed import Push, split

#: name of the only task of a stream whose tasks were put together
JOINT = "joint"


@dataclass(frozen=True)
class TaskStream:
    """Pushes in order, and what one must know to learn from them.

    Iterating makes the pushes; each time the same ones.

    Args:
        name: short, for files and tables.
        scenario: what changes between tasks, such as `class incremental`.
        fields: name -> (dtype, shape without rows).
        tasks: names, in the order in which they come.
        classes: how many labels there are; 0 where the stream has none.
        training_samples: rows that are pushed to be trained.
        make: makes the pushes, all with `cursor` rising.

    Example:
        >>> def pushes():
        ...     for task, place in (("a", 0.0), ("b", 1.0)):
        ...         yield Push({"x": np.full((4, 1), place)}, task)
        >>> stream = TaskStream("toy", "shift", {"x": ("float64", (1,))}, ("a", "b"), 0, 8, pushes)
        >>> [push.task for push in stream], [push.task for push in stream.joined(seed=0)]
        (['a', 'b'], ['joint'])
    """

    name: str
    scenario: str
    fields: Mapping[str, tuple[str, tuple[int, ...]]]
    tasks: tuple[str, ...]
    classes: int
    training_samples: int
    make: Callable[[], Iterator[Push]]

    def __iter__(self) -> Iterator[Push]:
        return self.make()

    def joined(self, seed: int, *, rows_per_push: int = 64) -> TaskStream:
        """All rows to train as one task in random order, after the probes under their own tasks.

        What a method reaches that need not remember anything; holds all rows in memory at once.
        """

        def pushes() -> Iterator[Push]:
            training = []
            for push in self:
                if push.evaluate:
                    yield push
                else:
                    training.append({name: np.array(rows) for name, rows in push.fields.items()})
            together = {
                name: np.concatenate([fields[name] for fields in training]) for name in self.fields
            }
            order = np.random.default_rng(seed).permutation(self.training_samples)
            shuffled = {name: rows[order] for name, rows in together.items()}
            cursor = 0
            for piece in split(shuffled, rows_per_push):
                cursor += len(next(iter(piece.values())))
                yield Push(piece, JOINT, False, cursor)

        return replace(self, tasks=(JOINT,), make=pushes)


def check_rows_per_push(rows_per_push: int) -> None:
    """Refuse a number of rows that no push can have."""
    if rows_per_push < 1:
        raise OperatorError(f"rows_per_push is {rows_per_push}", allowed="1 or more")
