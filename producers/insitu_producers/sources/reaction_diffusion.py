"""A real reaction-diffusion simulation that steps through regimes and pushes its fields.

    python -m insitu_producers.sources.reaction_diffusion --endpoint tcp://127.0.0.1:5555

The Gray-Scott system (`gray_scott.py`) is run with several members at once. In each regime the
members start anew, a transient passes, and then every few steps the fields of all members are
pushed with the regime as task and the step as cursor. After each push V is put into every member
at a random place and taken out at another, so that the patterns never settle. The last members,
which began from other disturbances, are held out: their fields are pushed with `evaluate=True`.
Field: `x` float32 [2, size, size], the concentrations u and v.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import numpy as np

from insitu_producers.sources.feed import Push, argument_parser, run
from insitu_producers.sources.gray_scott import REGIMES, GrayScott, Regime

MODULE = "insitu_producers.sources.reaction_diffusion"


def reaction_diffusion_pushes(
    simulation: GrayScott,
    regimes: Sequence[Regime] = REGIMES,
    *,
    held_out_members: int = 2,
    transient_steps: int = 500,
    steps_per_push: int = 50,
    pushes_per_regime: int = 40,
    patches: int = 6,
    disturbances: int = 1,
) -> Iterator[Push]:
    """Run the simulation and yield what to push. Arrays are views that the next step changes.

    Example:
        >>> simulation = GrayScott(np.random.default_rng(0), members=3, size=16)
        >>> pushes = reaction_diffusion_pushes(
        ...     simulation, held_out_members=1, transient_steps=10, pushes_per_regime=1)
        >>> [(push.task, push.evaluate, push.fields["x"].shape) for push in pushes][:2]
        [('spots', True, (1, 2, 16, 16)), ('spots', False, (2, 2, 16, 16))]
    """
    training = slice(0, len(simulation.fields) - held_out_members)
    held_out = slice(training.stop, None)
    step = 0
    for regime in regimes:
        simulation.begin(regime, patches=patches)
        simulation.advance(transient_steps)
        step += transient_steps
        for _ in range(pushes_per_regime):
            simulation.advance(steps_per_push)
            step += steps_per_push
            if held_out_members:
                yield Push({"x": simulation.fields[held_out]}, regime.name, True, step)
            yield Push({"x": simulation.fields[training]}, regime.name, False, step)
            for member in range(len(simulation.fields)):
                simulation.disturb(member, patches=disturbances)
                simulation.disturb(member, patches=disturbances, u=1.0, v=0.0)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argument_parser(MODULE, "run Gray-Scott and push its fields", stream="gray-scott")
    parser.add_argument("--size", type=int, default=48, help="cells along each side")
    parser.add_argument("--members", type=int, default=10, help="independent runs")
    parser.add_argument("--held-out-members", type=int, default=2, help="runs never trained on")
    parser.add_argument("--transient-steps", type=int, default=500, help="steps before pushing")
    parser.add_argument("--steps-per-push", type=int, default=50, help="steps between pushes")
    parser.add_argument("--pushes-per-regime", type=int, default=40, help="pushes in each regime")
    parser.add_argument(
        "--disturbances", type=int, default=1, help="patches of V put in, and out, per push"
    )
    arguments = parser.parse_args(argv)
    if not 0 <= arguments.held_out_members < arguments.members:
        parser.error("--held-out-members must be at least 0 and less than --members")
    generator = np.random.default_rng(arguments.seed)
    simulation = GrayScott(generator, members=arguments.members, size=arguments.size)
    pushes = reaction_diffusion_pushes(
        simulation,
        held_out_members=arguments.held_out_members,
        transient_steps=arguments.transient_steps,
        steps_per_push=arguments.steps_per_push,
        pushes_per_regime=arguments.pushes_per_regime,
        disturbances=arguments.disturbances,
    )
    return run(pushes, arguments)


if __name__ == "__main__":
    sys.exit(main())
