"""ER-ACE: replay in which new classes do not push old ones aside.

Caccia et al., "New Insights on Reducing Abrupt Representation Change in Online Continual Learning"
(2022), section 4. With fresh rows X, remembered rows M and the classes C of the fresh batch,

    loss = mean CE(X; logits of C only) + mean CE(M; all logits)

In ordinary replay the first rows of a new class give large gradients that push the logits of all
old classes down. Here a fresh row competes only with the classes beside it in its batch; old and
new ones are told apart on remembered rows alone.

Deviations: the authors' code leaves logits of classes that never appeared in the softmax of fresh
rows, which their equation does not; that is `competitors: present_and_unseen`. It also does so in
the first task only, by its number; here there is no task number. Fresh means not from a memory. It
replaces what strategies before it made of the losses of fresh rows, so put it first.

Costs: as `replay`, and a second cross entropy.

Keeps: `memory.capacity_samples` raw samples, and which classes appeared.

Use it when: classes appear over time and one head tells all of them apart. It needs batches in
which more than one class appears: a fresh batch of one class teaches it nothing but to be
remembered. Not defined without logits of classes, nor with label smoothing, whose mass would be on
logits that are out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from insitu.batch import Batch
from insitu.memory.base import Memory
from insitu.objectives.base import Objective
from insitu.strategies.base import Observation, check_state_keys, refuse
from insitu.strategies.classes import appearing, logits_of
from insitu.strategies.rehearsal import (
    Augment,
    MeanOver,
    Rehearsal,
    ReplayWeight,
    SamplesPerStep,
    WarmUpSamples,
)

#: a logit that is out: a share of exactly 0, and no NaN where a share of 0 is multiplied by it
_OUT = -1e30


class ERACE(Rehearsal):
    """Replay with cross entropy over the classes of the batch for fresh rows.

    Args:
        memory: where samples are kept; this strategy is its only writer.
        objective: gives logits of classes.

    Raises:
        OperatorError: it does not, or smooths labels.
    """

    name = "er_ace"
    figures: ClassVar[Mapping[str, str]] = {
        **Rehearsal.figures,
        "classes_seen": "classes that have appeared among fresh rows",
    }

    def __init__(
        self,
        memory: Memory,
        objective: Objective,
        *,
        samples_per_step: SamplesPerStep = 32,
        warm_up_samples: WarmUpSamples = 1,
        replay_weight: ReplayWeight = 1.0,
        mean_over: MeanOver = "parts",
        competitors: Annotated[
            Literal["present", "present_and_unseen"],
            Field(
                description="whose logits a fresh row competes with: classes of its batch, or also "
                "those that never appeared"
            ),
        ] = "present",
        augment: Augment = None,
    ) -> None:
        super().__init__(
            memory,
            samples_per_step=samples_per_step,
            warm_up_samples=warm_up_samples,
            augment=augment,
        )
        classes = logits_of(objective)
        if classes is None:
            refuse(self.name, objective, "it needs one logit a class", "classify")
        if getattr(objective, "label_smoothing", 0.0):
            refuse(self.name, objective, "it smooths labels", "label_smoothing 0")
        self._objective = objective
        self._weight = replay_weight
        self._mean_over = mean_over
        self._with_unseen = competitors == "present_and_unseen"
        #: (classes,) bool: what has appeared among fresh rows
        self.seen = torch.zeros(classes, dtype=torch.bool)

    def losses(self, batch: Batch, outputs: Tensor, losses: Tensor) -> Tensor:
        fresh = batch.fresh_rows
        competing = self._competing(batch)
        logits = torch.cat(
            [outputs[:fresh].to(torch.float32).masked_fill(~competing, _OUT), outputs[fresh:]]
        )
        restricted = self._objective.losses(logits, batch)
        losses = torch.cat([restricted[:fresh], losses[fresh:]])
        if not self.has_own(len(losses)):
            return losses
        return self.weighted(losses, self._weight, self._mean_over)

    def _competing(self, batch: Batch) -> Tensor:
        """(classes,) bool: whose logits stay for fresh rows."""
        present = self._appearing(batch)
        if not self._with_unseen:
            return present
        return present | ~self.seen.to(present.device)

    def _appearing(self, batch: Batch) -> Tensor:
        labels = self._objective.labels(batch)
        assert labels is not None  # see `logits_of`
        return appearing(labels[: batch.fresh_rows], len(self.seen))

    def observe(self, observation: Observation) -> None:
        present = self._appearing(observation.batch)
        self.seen = self.seen.to(present.device) | present
        super().observe(observation)

    def metrics(self) -> Mapping[str, Tensor | float]:
        return {**super().metrics(), "classes_seen": self.seen.sum()}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "seen": self.seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        check_state_keys(self.name, state, {"memory": None, "seen": None})
        super().load_state_dict({"memory": state["memory"]})
        self.seen = state["seen"].to(self.seen.device, copy=True)


COMPONENT = ERACE
