"""The breaking harness as one command: `make chaos`, or `make chaos-long`.

    python -m chaos short | long [PART ...]

Every part prints its books and figures; the exit code is 1 when one of them is not as it must be.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Callable, Mapping
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


def _inputs(target: str, inputs: int) -> Part:
    return lambda directory: fuzz(target, inputs, seed=1)


def parts(*, long: bool) -> Mapping[str, Part]:
    """Name -> what to do in a directory."""
    fuzzed = {name: _inputs(name, 100_000 if long else 500) for name in NAMES}
    kills, power_losses = (200, 50) if long else (5, 3)
    return {
        "decoder": lambda directory: fuzz_decoder(10_000_000 if long else 200_000, seed=1),
        "socket": partial(fuzz_socket, messages=1_000_000 if long else 20_000, seed=1),
        **fuzzed,
        "network": partial(through_a_bad_network, seconds=300.0 if long else 10.0, seed=1),
        "fairness": partial(fairness, offer=Offer(256) if long else SHORT),
        "received": _killing(Plan(kills=20 if long else 1, level="received")),
        "kills": _killing(Plan(kills=kills, producer_stops=kills // 5)),
        "producers": _killing(Plan(kills=0, producer_kills=50 if long else 2)),
        "windows": _killing(Plan(kills=0, producer_kills=50 if long else 3, window=True)),
        "power": _killing(Plan(kills=power_losses, level="durable", power=True)),
        "power_logged": _killing(Plan(kills=power_losses, level="logged", power=True)),
        "soak": partial(soak, seconds=1800.0 if long else 60.0),
    }


def main(profile: str, *names: str) -> int:
    """Run the parts with these names, or all; 0 when all is as it must be."""
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # what it is fed is not HTTP
    found = parts(long=profile == "long")
    wrong = []
    for name in names or found:
        with tempfile.TemporaryDirectory(prefix=f"chaos-{name}-") as place:
            figures = found[name](Path(place))
        wrong += [f"{name}: {problem}" for problem in problems(figures)]
        print(f"== {name}\n{figures}\n", flush=True)
    print("\n".join(wrong) or "all is as it must be")
    return 1 if wrong else 0


if __name__ == "__main__":
    if sys.argv[1:2] not in (["short"], ["long"]):
        raise SystemExit(__doc__)
    raise SystemExit(main(*sys.argv[1:]))
