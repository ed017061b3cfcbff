"""Fuzzing without a tool: seeded damage to the corpus of a target.

python -m chaos.fuzz config 100000
"""

from __future__ import annotations

import gc
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from chaos.mutation import mutated_bytes
from chaos.resources import resident_bytes
from chaos.targets import NAMES, corpus, load

#: nothing that is fed here may take longer
_MOST_SECONDS = 5.0
_WARM_SHARE = 0.2
#: longer ones are there for what they are; damage to them would find nothing for its cost
_MOST_SEED_BYTES = 1536


@dataclass
class FuzzFigures:
    """What was fed, and what it cost."""

    target: str
    inputs: int
    seconds: float
    slowest_seconds: float
    grown_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.target}: {self.inputs:,} mutated inputs in {self.seconds:.0f} s; slowest "
            f"{1000 * self.slowest_seconds:.0f} ms; resident memory grew {self.grown_bytes:,} bytes"
        )


def fuzz(target: str, inputs: int, seed: int) -> FuzzFigures:
    """Feed the corpus as it is, then `inputs` damaged pieces of it.

    Raises:
        AssertionError: with the input in hexadecimal, when a target did what it must not.
    """
    run, seeds, source = load(target), corpus(target), random.Random(seed)
    run(seeds[0])  # the first imports what it needs, which is not clocked
    for data in seeds:
        _fed(run, data)
    seeds = [data for data in seeds if len(data) <= _MOST_SEED_BYTES]
    started, slowest, before = time.monotonic(), 0.0, 0
    for index in range(inputs):
        if index == int(_WARM_SHARE * inputs):
            gc.collect()
            before = resident_bytes()
        data = mutated_bytes(source, seeds[int(source.random() * len(seeds))])
        if source.random() < 0.1:  # the beginning of one and the end of another
            other = seeds[int(source.random() * len(seeds))]
            data = data[: int(source.random() * len(data))] + other[len(other) // 2 :]
        slowest = max(slowest, _fed(run, data))
    gc.collect()
    grown = resident_bytes() - before
    return FuzzFigures(target, inputs, time.monotonic() - started, slowest, grown)


def _fed(run: Callable[[bytes], None], data: bytes) -> float:
    began = time.monotonic()
    try:
        run(data)
    except Exception as error:
        raise AssertionError(f"{error!r} for the input {data.hex()}") from error
    seconds = time.monotonic() - began
    assert seconds < _MOST_SECONDS, f"{seconds:.1f} s for the input {data.hex()}"
    return seconds


if __name__ == "__main__":
    for name in NAMES if sys.argv[1] == "all" else (sys.argv[1],):
        print(fuzz(name, int(sys.argv[2]), int((sys.argv[3:] or ["1"])[0])), flush=True)
