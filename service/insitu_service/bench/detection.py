"""Drift detection: how late each detector finds a switch, and how often it finds one that is not.

    insitu bench detection [--quiet-steps 10000] [--seeds 1]

Every stream begins with a long stretch in which nothing changes but the model, which learns; then
come switches. A detector has `within` steps to find one; whatever else it tells is a false alarm.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table

from insitu.component import catalogue
from insitu.detection import DriftWatch
from insitu.errors import OperatorError
from insitu_service.bench.comparison import Comparison
from insitu_service.bench.detection_streams import Recording, classes, digits, flow, synthetic

WITHIN_STEPS = 50
COOLDOWN_STEPS = 50

#: stream -> the detectors that can know of its switches, which are held to the targets
HELD: Mapping[str, tuple[str, ...]] = {
    "digits, changed images": ("adwin", "feature_divergence"),
    "digits, two classes at a time": (
        "page_hinkley", "adwin", "feature_divergence", "label_divergence",
    ),
    # one of its switches leaves the mean loss where it was, so no detector on the loss can tell
    "reaction-diffusion, changed rates": ("feature_divergence",),
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What one detector told of one stream.

    Args:
        delays: of every switch that was found in time, in steps.
        missed: switches that were not.
        false_alarms: all else that was told.
    """

    stream: str
    detector: str
    steps: int
    delays: tuple[int, ...]
    missed: int
    false_alarms: int

    @property
    def false_alarms_per_10000(self) -> float:
        return self.false_alarms * 10_000 / self.steps


def ask(recording: Recording, name: str, options: Mapping[str, object] | None = None) -> Outcome:
    """Show a recording to a detector.

    Raises:
        OperatorError: the detector does not work with the stream's objective, or watches a model,
            which recordings have none of.
    """
    parts = {
        "objective": recording.objective,
        "generator": torch.Generator().manual_seed(0),
        "device": torch.device("cpu"),
    }
    detector = catalogue("insitu.detection")[name].build(options or {}, parts)
    watch = DriftWatch([(detector, COOLDOWN_STEPS)])
    told = []
    for observation in recording.observations:
        if watch.update(observation):
            watch.boundary()
            told.append(observation.step)
    delays, missed = [], 0
    for switch in recording.switches:
        found = [step for step in told if switch <= step <= switch + WITHIN_STEPS]
        delays += [found[0] - switch + 1] if found else []
        missed += not found
    false_alarms = len(told) - len(delays)
    steps = len(recording.observations)
    return Outcome(recording.name, name, steps, tuple(delays), missed, false_alarms)


def recordings(seed: int, *, quiet_steps: int = 10_000, switch_steps: int = 300) -> list[Recording]:
    """All streams."""
    lengths = {"quiet_steps": quiet_steps, "switch_steps": switch_steps}
    real: Sequence[Callable[..., Recording]] = (digits, classes, flow)
    return [
        *(synthetic(seed, **lengths, switches=6, ramp_steps=ramp) for ramp in (1, 40)),
        *(stream(seed, **lengths) for stream in real),
    ]


def outcomes(streams: Sequence[Recording]) -> list[Outcome]:
    """Every detector on every stream that it works with."""
    found = []
    for recording in streams:
        for name in catalogue("insitu.detection"):
            try:
                found.append(ask(recording, name))
            except OperatorError:
                continue
    return found


def measure(*, seed: int = 0, quiet_steps: int = 10_000) -> list[Comparison]:
    """The figures that are held: the latest switch, and false alarms in 10,000 steps."""
    held = []
    for outcome in outcomes(recordings(seed, quiet_steps=quiet_steps)):
        if outcome.detector not in HELD.get(outcome.stream, ()):
            continue
        latest = float("inf") if outcome.missed else float(max(outcome.delays))
        name = f"{outcome.detector}: {outcome.stream}"
        limit = float(WITHIN_STEPS)
        held.append(
            Comparison(f"{name}, latest", "steps", latest, limit, latest / limit, 1.0, False)
        )
        false = outcome.false_alarms_per_10000
        held.append(Comparison(f"{name}, false", "per 10,000 steps", false, 1.0, false, 1.0, False))
    return held


def print_outcomes(found: Sequence[Outcome]) -> None:
    """A table of them on standard output."""
    table = Table(title="drift detection", title_justify="left")
    for column in ("stream", "detector", "found", "mean delay", "latest", "false in 10,000"):
        table.add_column(column, justify="left" if column in ("stream", "detector") else "right")
    for each in found:
        delays = each.delays
        table.add_row(
            each.stream,
            each.detector,
            f"{len(delays)} of {len(delays) + each.missed}",
            f"{sum(delays) / len(delays):.1f}" if delays else "-",
            str(max(delays)) if delays else "-",
            f"{each.false_alarms_per_10000:.1f}",
        )
    Console(width=110, soft_wrap=True).print(table)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="insitu bench detection", description=__doc__)
    parser.add_argument("--quiet-steps", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args(argv)
    for seed in range(arguments.seeds):
        print_outcomes(outcomes(recordings(seed, quiet_steps=arguments.quiet_steps)))
    return 0
