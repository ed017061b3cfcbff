"""The breaking harness as one command: `make chaos`, or `make chaos-long`.

    python -m chaos short [PART ...]
    python -m chaos long [PART ...] [--scale 0.01]

Every part prints its books and figures; the exit code is 1 when one of them is not as it must be.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from chaos.bad_network import through_a_bad_network
from chaos.decoder_fuzz import fuzz_decoder
from chaos.fairness import SHORT, Offer, fairness
from chaos.fuzz import fuzz
from chaos.killing import Killing
from chaos.killing_figures import Plan
from chaos.soak import soak
from chaos.socket_fuzz import fuzz_socket
from chaos.targets import NAMES
from chaos.verdicts import Figures, problems

Part = Callable[[Path], Figures]


def _killing(plan: Plan) -> Part:
    return lambda directory: Killing(directory, plan).run()


def _decoder(directory: Path, messages: int) -> Figures:
    return fuzz_decoder(messages, seed=1)


def _inputs(target: str, inputs: int) -> Part:
    return lambda directory: fuzz(target, inputs, seed=1)


def parts(*, long: bool, scale: float = 1.0) -> Mapping[str, Part]:
    """Name -> what to do in a directory.

    Args:
        scale: of the long profile's counts and times, to see in minutes that all of it runs.
    """

    def much(in_short: int, in_long: int, least: int) -> int:
        return max(least, round(scale * in_long)) if long else in_short

    inputs, kills, power_losses = much(500, 100_000, 200), much(5, 200, 1), much(3, 50, 3)
    fuzzed = {name: _inputs(name, inputs) for name in NAMES}
    offer = Offer(256, seconds=much(0, 20, 2), rounds=much(0, 8, 1)) if long else SHORT
    return {
        "decoder": partial(_decoder, messages=much(200_000, 10_000_000, 20_000)),
        "socket": partial(fuzz_socket, messages=much(20_000, 1_000_000, 5_000), seed=1),
        **fuzzed,
        "network": partial(through_a_bad_network, seconds=float(much(10, 300, 10)), seed=1),
        "fairness": partial(fairness, offer=offer),
        "received": _killing(Plan(kills=much(1, 20, 1), level="received")),
        "kills": _killing(Plan(kills=kills, producer_stops=kills // 5)),
        "producers": _killing(Plan(kills=0, producer_kills=much(2, 50, 1))),
        "windows": _killing(Plan(kills=0, producer_kills=much(3, 50, 1), window=True)),
        "power": _killing(Plan(kills=power_losses, level="durable", power=True)),
        "power_logged": _killing(Plan(kills=power_losses, level="logged", power=True)),
        "soak": partial(soak, seconds=float(much(60, 1800, 60))),
    }


def main(arguments: Sequence[str]) -> int:
    """Run the parts that are asked for, or all; 0 when all is as it must be."""
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("profile", choices=("short", "long"))
    parser.add_argument("part", nargs="*", help="names of parts; all when none is given")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="of the long profile: 0.01 takes minutes"
    )
    asked = parser.parse_intermixed_args(arguments)
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # what it is fed is not HTTP
    found = parts(long=asked.profile == "long", scale=asked.scale)
    unknown = sorted(set(asked.part) - set(found))
    if unknown:
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(found)}")
    wrong = []
    for name in asked.part or found:
        wrong += [f"{name}: {problem}" for problem in _run(name, found[name])]
    print("\n".join(wrong) or "all is as it must be")
    return 1 if wrong else 0


def _run(name: str, part: Part) -> list[str]:
    """What is wrong in a part; one that breaks down does not keep the others from running."""
    began = time.monotonic()
    print(f"== {name}", flush=True)
    try:
        with tempfile.TemporaryDirectory(prefix=f"chaos-{name}-") as place:
            figures = part(Path(place))
    except Exception as error:
        traceback.print_exc()
        return [f"it broke down: {type(error).__name__}: {str(error).splitlines()[:1]}"]
    print(f"{figures}\n{name} took {time.monotonic() - began:.0f} s\n", flush=True)
    return problems(figures)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
