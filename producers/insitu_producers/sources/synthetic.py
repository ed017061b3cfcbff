"""Random rows of any size, as fast as the service takes them: for measuring.

    python -m insitu_producers.sources.synthetic --endpoint tcp://127.0.0.1:5555 --seconds 10

Field: `x` float32 [floats]. One block of rows is drawn and pushed again and again, so that the
source costs no more than the copy into the window.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np

from insitu_producers.sources.feed import Push, argument_parser, run

MODULE = "insitu_producers.sources.synthetic"


def synthetic_pushes(
    seed: int, *, rows_per_push: int, floats: int, pushes: int, seconds: float
) -> Iterator[Push]:
    """The same random rows, `pushes` times (0: no end) or until `seconds` have passed (0: never).

    Example:
        >>> [push.cursor for push in synthetic_pushes(
        ...     0, rows_per_push=4, floats=8, pushes=3, seconds=0)]
        [4, 8, 12]
    """
    generator = np.random.default_rng(seed)
    fields = {"x": generator.standard_normal((rows_per_push, floats), np.float32)}
    end = time.monotonic() + seconds
    count = 0
    while (not pushes or count < pushes) and (not seconds or time.monotonic() < end):
        count += 1
        yield Push(fields, task="synthetic", cursor=count * rows_per_push)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argument_parser(MODULE, "push random rows", stream="synthetic")
    parser.add_argument("--rows-per-push", type=int, default=64, help="rows a push")
    parser.add_argument("--floats", type=int, default=1024, help="float32 numbers in a row")
    parser.add_argument("--pushes", type=int, default=0, help="how many pushes; 0 is no limit")
    parser.add_argument("--seconds", type=float, default=0.0, help="how long; 0 is no limit")
    arguments = parser.parse_args(argv)
    pushes = synthetic_pushes(
        arguments.seed,
        rows_per_push=arguments.rows_per_push,
        floats=arguments.floats,
        pushes=arguments.pushes,
        seconds=arguments.seconds,
    )
    return run(pushes, arguments)


if __name__ == "__main__":
    sys.exit(main())
