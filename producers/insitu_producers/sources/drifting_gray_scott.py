"""A Gray-Scott simulation whose rates drift slowly, with no moment at which anything changes.

    python -m insitu_producers.sources.drifting_gray_scott --endpoint tcp://127.0.0.1:5555

The system of `gray_scott.py` runs on while its feed and kill rates move in equal small steps from
one regime to the next, along straight lines between `REGIMES`. Tasks are equal intervals of the
way, only names for where the stream stands: the fields at both sides of a boundary are alike. The
last members are held out. Field: `x` float32 [2, size, size].

Probes of an interval are known only when the simulation has come there, so they cannot come before
the first task; they are pushed beside the fields that are trained.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np

from insitu.errors import OperatorError
from insitu_producers.sources.feed import Push
from insitu_producers.sources.gray_scott import REGIMES, GrayScott, Regime
from insitu_producers.sources.stream_program import push_stream
from insitu_producers.sources.task_stream import TaskStream

MODULE = "insitu_producers.sources.drifting_gray_scott"


def regime_at(place: float, regimes: Sequence[Regime] = REGIMES) -> Regime:
    """The rates at a place on the way, 0 at the first regime and 1 at the last.

    Example:
        >>> regime_at(0.0).feed, round(regime_at(1.0).feed, 4), round(regime_at(1 / 6).feed, 4)
        (0.03, 0.046, 0.035)
    """
    along = place * (len(regimes) - 1)
    index = min(int(along), len(regimes) - 2)
    share, one, other = along - index, regimes[index], regimes[index + 1]
    return Regime(
        f"{place:.3f}",
        feed=one.feed + share * (other.feed - one.feed),
        kill=one.kill + share * (other.kill - one.kill),
    )


def drifting_gray_scott(
    *,
    seed: int,
    tasks: Annotated[int, "intervals of the way"] = 8,
    pushes_per_task: Annotated[int, "pushes in every interval"] = 25,
    steps_per_push: Annotated[int, "simulated steps between two pushes"] = 50,
    transient_steps: Annotated[int, "simulated steps before the first push"] = 500,
    members: Annotated[int, "independent runs"] = 10,
    held_out_members: Annotated[int, "runs never trained on"] = 2,
    size: Annotated[int, "cells along each side"] = 32,
    disturbances: Annotated[int, "patches of V put in, and out, per push"] = 1,
) -> TaskStream:
    """The simulation on its way; arrays are copies.

    Raises:
        OperatorError: nothing is left to train, or nothing to push.
    """
    if not 0 <= held_out_members < members:
        raise OperatorError(
            f"held_out_members is {held_out_members} of {members} members",
            allowed=f"0 to {members - 1}",
        )
    if min(tasks, pushes_per_task) < 1:
        raise OperatorError(
            f"tasks is {tasks} and pushes_per_task {pushes_per_task}", allowed="1 or more"
        )
    names = tuple(f"interval-{task}" for task in range(tasks))
    training = slice(0, members - held_out_members)
    held_out = slice(training.stop, None)
    total = tasks * pushes_per_task

    def pushes() -> Iterator[Push]:
        simulation = GrayScott(np.random.default_rng(seed), members=members, size=size)
        simulation.begin(regime_at(0.0), patches=6)
        simulation.advance(transient_steps)
        step = transient_steps
        for push in range(total):
            simulation.regime = regime_at(push / max(1, total - 1))
            simulation.advance(steps_per_push)
            step += steps_per_push
            task, fields = names[push // pushes_per_task], simulation.fields.copy()
            if held_out_members:
                yield Push({"x": fields[held_out]}, task, True, step)
            yield Push({"x": fields[training]}, task, False, step)
            for member in range(members):
                simulation.disturb(member, patches=disturbances)
                simulation.disturb(member, patches=disturbances, u=1.0, v=0.0)

    return TaskStream(
        "drifting-gray-scott",
        "drift",
        {"x": ("float32", (2, size, size))},
        names,
        0,
        total * training.stop,
        pushes,
    )


STREAM = drifting_gray_scott


def main(argv: Sequence[str] | None = None) -> int:
    return push_stream(MODULE, "push a drifting simulation", "drifting-gray-scott", STREAM, argv)


if __name__ == "__main__":
    sys.exit(main())
