"""Gray-Scott simulations in several regimes at once; each field comes with its regime.

    python -m insitu_producers.sources.gray_scott_regimes --endpoint tcp://127.0.0.1:5555

For every regime of `gray_scott.REGIMES` a simulation of its own runs on a periodic grid; every few
steps the fields of all are pushed together, shuffled, under one task. After each push V is put into
every member at a random place and taken out at another, so that the patterns never settle. The last
members of each simulation are held out, and pushed with `evaluate=True`. Fields: `x` float32
[2, size, size], the concentrations u and v; `y` int64, the number of the regime; `rates` float32
[2], its feed and kill rate. So the regime can be classified, and the rates regressed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from insitu.errors import OperatorError
from insitu_producers.sources.feed import Arrays, Push
from insitu_producers.sources.gray_scott import REGIMES, GrayScott
from insitu_producers.sources.stream_program import push_stream
from insitu_producers.sources.task_stream import TaskStream

MODULE = "insitu_producers.sources.gray_scott_regimes"
TASK = "regimes"


def gray_scott_regimes(
    *,
    seed: int,
    pushes: Annotated[int, "pushes in all"] = 100,
    steps_per_push: Annotated[int, "simulated steps between two pushes"] = 50,
    transient_steps: Annotated[int, "simulated steps before the first push"] = 1000,
    members: Annotated[int, "independent runs of every regime"] = 4,
    held_out_members: Annotated[int, "of these, runs never trained on"] = 1,
    size: Annotated[int, "cells along each side"] = 32,
    disturbances: Annotated[int, "patches of V put in, and out, per push"] = 1,
) -> TaskStream:
    """The simulations side by side; arrays are copies.

    Raises:
        OperatorError: nothing is left to train, or nothing to push.

    Example:
        >>> stream = gray_scott_regimes(seed=0, pushes=1, transient_steps=10, members=2, size=16)
        >>> [(push.evaluate, push.fields["y"].tolist()) for push in stream][0]
        (True, [0, 1, 2, 3])
    """
    if not 0 <= held_out_members < members:
        raise OperatorError(
            f"held_out_members is {held_out_members} of {members} members",
            allowed=f"0 to {members - 1}",
        )
    if pushes < 1:
        raise OperatorError(f"pushes is {pushes}", allowed="1 or more")
    trained = members - held_out_members

    def make() -> Iterator[Push]:
        generator = np.random.default_rng(seed)
        simulations = [GrayScott(generator, members=members, size=size) for _ in REGIMES]
        for simulation, regime in zip(simulations, REGIMES, strict=True):
            simulation.begin(regime, patches=6)
            simulation.advance(transient_steps)
        step = transient_steps
        for _ in range(pushes):
            step += steps_per_push
            for simulation in simulations:
                simulation.advance(steps_per_push)
            if held_out_members:
                yield Push(_rows(simulations, slice(trained, None)), TASK, True, step)
            order = generator.permutation(trained * len(simulations))
            yield Push(_rows(simulations, slice(0, trained), order), TASK, False, step)
            for simulation in simulations:
                for member in range(members):
                    simulation.disturb(member, patches=disturbances)
                    simulation.disturb(member, patches=disturbances, u=1.0, v=0.0)

    return TaskStream(
        "gray-scott-regimes",
        "joint",
        {"x": ("float32", (2, size, size)), "y": ("int64", ()), "rates": ("float32", (2,))},
        (TASK,),
        len(REGIMES),
        pushes * trained * len(REGIMES),
        make,
    )


def _rows(
    simulations: Sequence[GrayScott], members: slice, order: NDArray[np.int64] | None = None
) -> Arrays:
    """The fields of some members of all simulations, with regime and rates, in this order."""
    fields = np.concatenate([simulation.fields[members] for simulation in simulations])
    numbers = np.repeat(np.arange(len(REGIMES)), len(fields) // len(REGIMES))
    order = np.arange(len(fields)) if order is None else order
    rates = np.array([(regime.feed, regime.kill) for regime in REGIMES], np.float32)
    return {
        "x": fields[order],
        "y": numbers[order].astype(np.int64),
        "rates": rates[numbers[order]],
    }


STREAM = gray_scott_regimes


def main(argv: Sequence[str] | None = None) -> int:
    return push_stream(MODULE, "push simulations", "gray-scott-regimes", STREAM, argv)


if __name__ == "__main__":
    sys.exit(main())
