"""Experience replay: train remembered samples beside the fresh ones.

Chaudhry et al., "On Tiny Episodic Memories in Continual Learning" (2019), algorithm 1:

    B_M ~ memory                     augment
    theta <- SGD(B_n u B_M, theta)   one mean over both
    memory <- update(memory, B_n)    observe: the memory's policy decides what stays

Deviations: none in the algorithm. While the memory holds fewer samples than a step wants, all of
it is drawn, not some of it twice. With `mean_over: parts` the loss is the sum of both means, as
other libraries have it; `replay_weight` is a factor of the replayed rows' losses, and with
`weight_control` it follows the measured loss on memory (`insitu.strategies.replay_weight`). In each
of `updates_per_batch` other rows are drawn; the fresh ones are remembered once, after the last.
Next to another strategy that weighs rows, `parts` takes the rows of that one among the others.

Costs: forward and backward passes over `samples_per_step` more rows in every update.

Keeps: `memory.capacity_samples` raw samples.

Use it when: samples may be kept. It is the baseline that is hard to beat, for every objective.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from insitu.batch import Batch
from insitu.memory.base import Memory
from insitu.strategies.base import Observation, check_state_keys
from insitu.strategies.rehearsal import (
    Augment,
    MeanOver,
    Rehearsal,
    ReplayWeight,
    SamplesPerStep,
    WarmUpSamples,
)
from insitu.strategies.replay_weight import (
    ControlledWeight,
    WeightControl,
    WeightMost,
    WeightRate,
    WeightTarget,
)


class ExperienceReplay(Rehearsal):
    """Mixes remembered samples into every batch.

    Args:
        memory: where samples are kept; this strategy is its only writer.
    """

    name = "replay"
    figures: ClassVar[Mapping[str, str]] = {
        **Rehearsal.figures,
        "replay_weight": "factor of the replayed rows' losses",
    }

    def __init__(
        self,
        memory: Memory,
        *,
        samples_per_step: SamplesPerStep = 32,
        warm_up_samples: WarmUpSamples = 1,
        replay_weight: ReplayWeight = 1.0,
        mean_over: MeanOver = "all",
        weight_control: WeightControl = "fixed",
        weight_target: WeightTarget = 1.0,
        weight_rate: WeightRate = 0.01,
        weight_most: WeightMost = 10.0,
        augment: Augment = None,
    ) -> None:
        super().__init__(
            memory,
            samples_per_step=samples_per_step,
            warm_up_samples=warm_up_samples,
            augment=augment,
        )
        self._mean_over = mean_over
        self._is_fixed = weight_control == "fixed"
        self._fixed_weight = replay_weight
        self._weight = ControlledWeight(
            replay_weight, weight_control, target=weight_target, rate=weight_rate, most=weight_most
        )
        self._is_plain = self._is_fixed and replay_weight == 1.0 and mean_over == "all"

    def losses(self, batch: Batch, outputs: Tensor, losses: Tensor) -> Tensor:
        if self._is_plain or not self.has_own(len(losses)):
            return losses
        weight = self._fixed_weight if self._is_fixed else self._weight.on(losses.device)
        return self.weighted(losses, weight, self._mean_over)

    def observe(self, observation: Observation) -> None:
        if not self._is_fixed and self.has_own(len(observation.losses)):
            self._weight.follow(observation.losses, self.own)
        super().observe(observation)

    def metrics(self) -> Mapping[str, Tensor | float]:
        return {**super().metrics(), "replay_weight": self._weight.value}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "weight": self._weight.value}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        check_state_keys(self.name, state, {"memory": None, "weight": None})
        super().load_state_dict({"memory": state["memory"]})
        self._weight.value = state["weight"].to(self._weight.value.device, copy=True)


COMPONENT = ExperienceReplay
