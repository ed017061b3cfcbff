"""The 1,797 handwritten digits of scikit-learn as a class-incremental stream, seen once.

    python -m insitu_producers.sources.digits --endpoint tcp://127.0.0.1:5555

Tasks are groups of digits, `0-1`, `2-3`, ... in this order; every image is pushed once. A fifth
of each class is held out, chosen by the seed, and pushed first under the same task with
`evaluate=True`. Fields: `x` float32 [64], grey values from 0 to 1; `y` int64, the digit.
The images are the test part of E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten
Digits", UCI Machine Learning Repository (1998).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from insitu_producers.sources.feed import Arrays, Push, argument_parser, need_extra, run, split

MODULE = "insitu_producers.sources.digits"


def load_digits() -> Arrays:
    """All images and labels, in the data set's order."""
    from sklearn.datasets import load_digits as load

    data = load()
    return {"x": (data.data / 16.0).astype(np.float32), "y": data.target.astype(np.int64)}


def digit_pushes(
    digits: Arrays,
    *,
    seed: int,
    classes_per_task: int = 2,
    held_out_ratio: float = 0.2,
    rows_per_push: int = 16,
) -> Iterator[Push]:
    """The class-incremental stream: per task the held-out images, then the others, shuffled.

    Example:
        >>> digits = {"x": np.zeros((20, 64), np.float32), "y": np.arange(20) % 10}
        >>> pushes = digit_pushes(digits, seed=0, held_out_ratio=0.5, rows_per_push=4)
        >>> [(push.task, push.evaluate, push.rows) for push in pushes][:3]
        [('0-1', True, 2), ('0-1', False, 2), ('2-3', True, 2)]
    """
    generator = np.random.default_rng(seed)
    labels = digits["y"]
    cursor = 0
    for first in range(0, 10, classes_per_task):
        members = range(first, min(first + classes_per_task, 10))
        task = f"{members[0]}-{members[-1]}" if len(members) > 1 else str(first)
        held_out, training = _parts(labels, members, held_out_ratio, generator)
        for index, evaluate in ((held_out, True), (training, False)):
            rows = {name: array[index] for name, array in digits.items()}
            for piece in split(rows, rows_per_push):
                cursor += len(piece["y"])
                yield Push(piece, task, evaluate, cursor)


def _parts(
    labels: NDArray[np.generic],
    members: Sequence[int],
    held_out_ratio: float,
    generator: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices (held out, training) of some classes: the same ratio of each class, shuffled."""
    held_out, training = [], []
    for member in members:
        index = generator.permutation(np.flatnonzero(labels == member))
        cut = round(held_out_ratio * len(index))
        held_out.append(index[:cut])
        training.append(index[cut:])
    return (
        generator.permutation(np.concatenate(held_out)),
        generator.permutation(np.concatenate(training)),
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argument_parser(MODULE, "push the digits, task by task", stream="digits")
    parser.add_argument("--rows-per-push", type=int, default=16, help="images a push")
    parser.add_argument("--classes-per-task", type=int, default=2, help="digits a task")
    parser.add_argument("--held-out", type=float, default=0.2, help="ratio held out, 0 to 1")
    arguments = parser.parse_args(argv)
    try:
        digits = load_digits()
    except ImportError as error:
        print(need_extra(MODULE, "demo", error), file=sys.stderr)
        return 2
    pushes = digit_pushes(
        digits,
        seed=arguments.seed,
        classes_per_task=arguments.classes_per_task,
        held_out_ratio=arguments.held_out,
        rows_per_push=arguments.rows_per_push,
    )
    return run(pushes, arguments)


if __name__ == "__main__":
    sys.exit(main())
