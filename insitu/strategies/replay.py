"""Experience replay: train remembered samples beside the fresh ones.

Chaudhry et al., "On Tiny Episodic Memories in Continual Learning" (2019), algorithm 1:

    B_M ~ memory                     augment
    theta <- SGD(B_n u B_M, theta)   one mean over both
    memory <- update(memory, B_n)    observe: the memory's policy decides what stays

Deviations: none in the algorithm. While the memory holds fewer samples than a step wants, all of
it is drawn, not some of it twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from insitu.batch import Batch
from insitu.memory.base import Memory
from insitu.strategies.base import Observation, Strategy, check_state_keys


class ExperienceReplay(Strategy):
    """Mixes remembered samples into every batch.

    Args:
        memory: where samples are kept; this strategy is its only writer.
    """

    name = "replay"

    def __init__(
        self,
        memory: Memory,
        *,
        samples_per_step: Annotated[
            int,
            Field(
                ge=1,
                description="remembered samples that are trained with every batch",
                json_schema_extra={"unit": "samples"},
            ),
        ] = 32,
        warm_up_samples: Annotated[
            int,
            Field(
                ge=1,
                description="replay starts when the memory holds this many",
                json_schema_extra={"unit": "samples"},
            ),
        ] = 1,
    ) -> None:
        self.memory = memory
        self.samples_per_step = samples_per_step
        self.warm_up_samples = warm_up_samples

    def augment(self, batch: Batch) -> Batch:
        if len(self.memory) < self.warm_up_samples:
            return batch
        remembered = self.memory.sample(min(self.samples_per_step, len(self.memory)))
        return batch if remembered is None else batch.joined(remembered)

    def observe(self, observation: Observation) -> None:
        if not observation.last:
            return
        fresh = observation.batch.fresh()
        self.memory.add(fresh, observation.losses[: fresh.rows])

    def metrics(self) -> Mapping[str, Tensor | float]:
        replayed = self.memory.times_replayed.to(torch.float64)
        return {
            "memory_samples": float(len(self.memory)),
            "times_replayed_mean": replayed.mean() if len(replayed) else 0.0,
        }

    def state_dict(self) -> dict[str, Any]:
        return {"memory": self.memory.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        check_state_keys(self.name, state, {"memory": None})
        self.memory.load_state_dict(state["memory"])


COMPONENT = ExperienceReplay
