"""Runs schedules by their seeds: `python -m simulation --seeds 0:1000`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Sequence

import torch

from mutations.base import mutations
from simulation.life import Broken
from simulation.world import Outcome, World

_TRACE_LINES = 60


def run(seed: int, *, resumes: bool = True) -> Outcome:
    """One schedule; a `Broken` says what is wrong."""
    return World(seed, resumes=resumes).run()


def first_broken(seeds: Iterable[int]) -> tuple[int, str] | None:
    """The first seed of some whose schedule breaks, and why; None when all hold."""
    for seed in seeds:
        try:
            run(seed)
        except Broken as error:
            return seed, str(error)
    return None


def replay(seed: int) -> str:
    """A broken schedule once more, with its last events and where it broke."""
    trace: list[str] = []
    world = World(seed, trace=trace)
    try:
        world.run()
    except Broken:
        return "\n".join([*trace[-_TRACE_LINES:], str(world.settings), traceback.format_exc()])
    return f"seed {seed} holds"


def quietly() -> None:
    """The service's warnings are what a schedule is made of."""
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)


def quietly_no_more() -> None:
    logging.disable(logging.NOTSET)


def search_planted(seeds: range) -> int:
    """How many seeds it takes to find each planted bug, each in a process of its own."""
    survived = 0
    for name, mutation in mutations().items():
        if mutation.tests != "tests/test_simulation.py":
            continue
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            mutation.apply()
            found = first_broken(seeds)
            seed, why = found or (seeds.stop, "not found")
            print(f"{name}: {seed - seeds.start + 1} schedules: {why[:100]}", flush=True)
            os._exit(found is None)
        survived += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0
    return survived


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m simulation", description=__doc__)
    parser.add_argument("--seeds", default="0:1000", help="FIRST:END, or one seed to look at")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at a broken seed")
    parser.add_argument("--planted", action="store_true", help="search the planted bugs instead")
    given = parser.parse_args(arguments)
    quietly()
    first, colon, end = given.seeds.partition(":")
    seeds = range(int(first), int(end)) if colon else range(int(first), int(first) + 1)
    if given.planted:
        return search_planted(seeds)
    counts, broken, events = Counter[str](), 0, 0
    began, began_cpu = time.perf_counter(), time.process_time()
    for seed in seeds:
        try:
            outcome = run(seed)
        except Broken as error:
            broken += 1
            print(f"seed {seed} is broken: {error}", flush=True)
            if not given.keep_going:
                print(replay(seed))
                break
            continue
        counts.update(outcome.counts)
        events += outcome.events
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - began_cpu
    print(f"{len(seeds)} schedules, {broken} broken, {events} events in {seconds:.1f} s: ", end="")
    print(f"{60 * len(seeds) / seconds:.0f} schedules a minute, ", end="")
    print(f"{60 * len(seeds) / cpu_seconds:.0f} a minute of a core of its own")
    for name, count in sorted(counts.items()):
        print(f"  {name:28s} {count:12d}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
