"""Streams with known switches, seen through a model that learns, for measuring detectors.

Every stream is trained once and recorded: what a detector is shown of each step. Detectors do not
change what is learned here, so all of them are asked about the same recording.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from insitu.batch import Batch
from insitu.models.build import build_model
from insitu.objectives.base import Objective
from insitu.objectives.classify import Classify
from insitu.objectives.reconstruct import Reconstruct
from insitu.schema import Schema
from insitu.strategies.base import Observation
from insitu.trainer import Trainer
from insitu_producers.sources.digits import load_digits
from insitu_producers.sources.gray_scott import REGIMES, GrayScott

Rows = dict[str, NDArray[np.generic]]


@dataclass
class Recording:
    """What detectors are shown of a stream.

    Args:
        switches: numbers of the steps, from 1, that are the first of another regime.
    """

    name: str
    objective: Objective
    observations: list[Observation] = field(default_factory=list)
    switches: list[int] = field(default_factory=list)


def synthetic(
    seed: int, *, quiet_steps: int, switch_steps: int, switches: int, ramp_steps: int = 1
) -> Recording:
    """Made-up losses, inputs and labels, without a model.

    Losses are gamma distributed of shape 2. At a switch the inputs move by one deviation in half of
    the elements, two of four classes are replaced, and the loss doubles and sinks back within 60
    steps, all of it over `ramp_steps`.
    """
    random = np.random.default_rng(seed)
    name = "synthetic, sudden" if ramp_steps == 1 else f"synthetic, over {ramp_steps} steps"
    objective = Classify(Schema.of({"x": ("float32", (8,)), "y": ("int64", ())}), classes=8)
    recording = Recording(name, objective)
    starts = [1, *(quiet_steps + 1 + i * switch_steps for i in range(switches))]
    recording.switches = starts[1:]
    regime = 0
    for step in range(1, quiet_steps + switches * switch_steps + 1):
        regime += step in recording.switches
        since = step - starts[regime]
        new = 1.0 if regime == 0 else min(1.0, (since + 1) / ramp_steps)
        of_new = random.random(16) < new
        side = np.where(of_new, regime % 2, (regime - 1) % 2)
        x = random.normal(size=(16, 8)) + side[:, None] * (np.arange(8) < 4)
        y = random.integers(0, 4, 16) + 2 * side
        risen = 0.0 if regime == 0 else new * np.exp(-max(0, since - ramp_steps) / 20.0)
        losses = random.gamma(2.0, 0.5 * (1.0 + risen), 16)
        batch = Batch.of({"x": torch.from_numpy(x.astype(np.float32)), "y": torch.from_numpy(y)})
        losses32 = torch.from_numpy(losses.astype(np.float32))
        recording.observations.append(Observation(batch, losses32, losses32, step))
    return recording


def digits(seed: int, *, quiet_steps: int, switch_steps: int) -> Recording:
    """Handwritten digits, ten classes throughout; at each switch the images are changed."""
    images = load_digits()
    random = np.random.default_rng(seed)
    order = random.permutation(64)
    changes: Sequence[Callable[[NDArray[np.float32]], NDArray[np.float32]]] = (
        lambda x: x,
        lambda x: np.roll(x.reshape(-1, 8, 8), 2, axis=2).reshape(-1, 64),
        lambda x: 1.0 - x,
        lambda x: x[:, order],
        lambda x: x,
        lambda x: np.rot90(x.reshape(-1, 8, 8), axes=(1, 2)).reshape(-1, 64),
        lambda x: x[:, ::-1] * 0.5,
    )

    def rows(regime: int) -> Rows:
        chosen = random.integers(0, len(images["y"]), 16)
        x = changes[regime](images["x"][chosen].astype(np.float32))
        noise = random.normal(0.0, 0.05, x.shape).astype(np.float32)
        return {"x": x + noise, "y": images["y"][chosen]}

    lengths = [quiet_steps, *[switch_steps] * (len(changes) - 1)]
    schema = Schema.of({"x": ("float32", (64,)), "y": ("int64", ())})
    recording = Recording("digits, changed images", Classify(schema, classes=10))
    return _recorded(recording, _regimes(rows, lengths), lengths, seed)


def classes(seed: int, *, quiet_steps: int, switch_steps: int) -> Recording:
    """Handwritten digits, two classes at a time, in turn."""
    images = load_digits()
    random = np.random.default_rng(seed)
    members = [np.flatnonzero(images["y"] // 2 == pair) for pair in range(5)]

    def rows(regime: int) -> Rows:
        chosen = random.choice(members[regime], 16)
        x = images["x"][chosen].astype(np.float32)
        noise = random.normal(0.0, 0.05, x.shape).astype(np.float32)
        return {"x": x + noise, "y": images["y"][chosen]}

    lengths = [quiet_steps, *[switch_steps] * 4]
    schema = Schema.of({"x": ("float32", (64,)), "y": ("int64", ())})
    recording = Recording("digits, two classes at a time", Classify(schema, classes=10))
    return _recorded(recording, _regimes(rows, lengths), lengths, seed)


def flow(seed: int, *, quiet_steps: int, switch_steps: int) -> Recording:
    """Fields of a reaction-diffusion simulation; at each switch its rates change."""
    simulation = GrayScott(np.random.default_rng(seed), members=8, size=16)
    names = {regime.name: regime for regime in REGIMES}
    order = [names[name] for name in ("waves", "stripes", "waves", "holes", "spots", "waves")]
    lengths = [quiet_steps, *[switch_steps] * (len(order) - 1)]

    def batches() -> Iterator[Rows]:
        for regime, steps in zip(order, lengths, strict=True):
            simulation.begin(regime, patches=4)
            simulation.advance(500)
            for step in range(steps):
                simulation.advance(10)
                simulation.disturb(step % 8, patches=1)
                simulation.disturb((step + 4) % 8, patches=1, u=1.0, v=0.0)
                yield {"x": simulation.fields.reshape(8, -1).copy()}

    objective = Reconstruct(Schema.of({"x": ("float32", (512,))}))
    recording = Recording("reaction-diffusion, changed rates", objective)
    return _recorded(recording, batches(), lengths, seed)


def _regimes(rows: Callable[[int], Rows], lengths: Sequence[int]) -> Iterator[Rows]:
    for regime, steps in enumerate(lengths):
        for _ in range(steps):
            yield rows(regime)


def _recorded(
    recording: Recording, stream: Iterator[Rows], lengths: Sequence[int], seed: int
) -> Recording:
    """Train a small model on the stream and keep what detectors are shown."""
    recording.switches = [int(end) + 1 for end in np.cumsum(lengths)[:-1]]
    objective = recording.objective
    reconstructs = isinstance(objective, Reconstruct)
    model = build_model(
        "mlp_autoencoder" if reconstructs else "mlp",
        {"hidden": [64]},
        objective.input_shape,
        objective.output_shape,
        seed=seed,
    )
    rate = 0.5 if reconstructs else 0.05
    trainer = Trainer(model, objective, torch.optim.SGD(model.parameters(), lr=rate))
    for rows in stream:
        batch = Batch.of({name: torch.from_numpy(np.array(each)) for name, each in rows.items()})
        report = trainer.step(batch)
        shown = Observation(batch, report.losses, report.losses, report.step)
        recording.observations.append(shown)
    return recording
