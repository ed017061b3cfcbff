"""Eight Gaussians that drift: a toy of what a plasma simulation gives a conditional model.

    python -m insitu_producers.sources.eight_gaussians --endpoint tcp://127.0.0.1:5555

Eight Gaussians of variance 0.04 at (+-2.4142, +-1) and (+-1, +-2.4142), a regular octagon of side
2, drawn with equal chance. At time t all are shifted by t in x, and those above y = 0 by t in y as
well, so that the upper half slides away diagonally. Twenty steps of 0.3, each a task of 2,048
points that never come again: a model of p(x | t) must keep what it knew of the earlier times.
Fields: `x` float32 [2], the point; `condition` float32 [1], the time. "Above" means the centre's
y, so that each component stays a Gaussian, and the entropy is the same at all times:
log 8 + log(2 pi 0.04) + 1 = 1.698 nats, but for a little overlap (no model does better).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from insitu.errors import OperatorError
from insitu_producers.sources.feed import Push, split
from insitu_producers.sources.stream_program import push_stream
from insitu_producers.sources.task_stream import TaskStream, check_rows_per_push

MODULE = "insitu_producers.sources.eight_gaussians"
VARIANCE = 0.04
_LONG = 1.0 + math.sqrt(2.0)
CENTRES = np.array(
    [
        (sign * across, other * up)
        for across, up in ((_LONG, 1.0), (1.0, _LONG))
        for sign in (1, -1)
        for other in (1, -1)
    ]
)


def centres_at(time: float) -> NDArray[np.float64]:
    """(8, 2) centres of the Gaussians at a time."""
    direction = np.stack((np.ones(8), np.where(CENTRES[:, 1] > 0, 1.0, 0.0)), axis=1)
    return np.asarray(CENTRES + time * direction)


def log_density(points: NDArray[np.floating], time: float) -> NDArray[np.float64]:
    """(rows,) exact log density, nats, of points (rows, 2) at a time: what a model can reach.

    Example:
        >>> bool(log_density(centres_at(0.6), 0.6).min() > log_density(centres_at(0.0), 0.6).min())
        True
    """
    squares = ((points[:, None] - centres_at(time)) ** 2).sum(axis=-1)
    exponents = -squares / (2 * VARIANCE)
    most = exponents.max(axis=1)
    total = np.log(np.exp(exponents - most[:, None]).sum(axis=1)) + most
    return np.asarray(total - math.log(8 * 2 * math.pi * VARIANCE))


def draw_points(
    time: float, count: int, generator: np.random.Generator
) -> dict[str, NDArray[np.float32]]:
    """`count` points at a time, with the time as their condition."""
    centres = centres_at(time)[generator.integers(0, 8, count)]
    points = centres + generator.normal(0.0, math.sqrt(VARIANCE), (count, 2))
    condition = np.full((count, 1), time, np.float32)
    return {"x": points.astype(np.float32), "condition": condition}


def eight_gaussians(
    *,
    seed: int,
    steps: Annotated[int, "times, each a task"] = 20,
    step_length: Annotated[float, "time from one task to the next"] = 0.3,
    points: Annotated[int, "points to train at every time"] = 2048,
    held_out_points: Annotated[int, "points held out at every time"] = 512,
    rows_per_push: Annotated[int, "points a push"] = 128,
    probes_first: Annotated[bool, "all held-out points before the first task"] = True,
) -> TaskStream:
    """The drifting Gaussians, one time after the other.

    Raises:
        OperatorError: there are no steps or no points.
    """
    check_rows_per_push(rows_per_push)
    for name, value, least in (("steps", steps, 1), ("points", points, 1)):
        if value < least:
            raise OperatorError(f"{name} is {value}", allowed=f"{least} or more")
    times = [step * step_length for step in range(steps)]
    names = [f"t={time:.1f}" if step_length >= 0.1 else f"t={time:g}" for time in times]

    def of_time(step: int, *, evaluate: bool) -> Iterator[Push]:
        generator = np.random.default_rng((seed, step, int(evaluate)))
        fields = draw_points(times[step], held_out_points if evaluate else points, generator)
        cursor = step * points
        for piece in split(fields, rows_per_push):
            cursor += 0 if evaluate else len(piece["x"])
            yield Push(piece, names[step], evaluate, 0 if probes_first and evaluate else cursor)

    def pushes() -> Iterator[Push]:
        if probes_first:
            for step in range(steps):
                yield from of_time(step, evaluate=True)
        for step in range(steps):
            if not probes_first:
                yield from of_time(step, evaluate=True)
            yield from of_time(step, evaluate=False)

    fields = {"x": ("float32", (2,)), "condition": ("float32", (1,))}
    return TaskStream("eight-gaussians", "drift", fields, tuple(names), 0, steps * points, pushes)


STREAM = eight_gaussians


def main(argv: Sequence[str] | None = None) -> int:
    return push_stream(MODULE, "push the drifting Gaussians", "eight-gaussians", STREAM, argv)


if __name__ == "__main__":
    sys.exit(main())
