"""DER++: remembered samples shall give their former outputs, and their labels are trained too.

Buzzega et al., "Dark Experience for General Continual Learning: a Strong, Simple Baseline" (2020),
equation 7. With outputs z kept beside every sample x of label y, and two draws from the memory,

    loss = mean loss(fresh) + alpha * mean distance(z', f(x')) + beta * mean loss(f(x''), y'')

Deviations: those of `der`. All rows share one forward pass, so layers that normalise over a batch
see them together. With `shared_draw` both terms are taken over one draw, for half the cost.

Costs: forward and backward passes over 2 * `samples_per_step` more rows; `samples_per_step` with
`shared_draw`.

Keeps: `memory.capacity_samples` raw samples with the outputs for them.

Use it when: samples may be kept and labels can be trusted; mostly the best of the simple replay
methods on a small memory.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from insitu.batch import Batch
from insitu.memory.base import Memory
from insitu.objectives.base import Objective
from insitu.sampling import Indices
from insitu.strategies.dark_experience import Alpha, DarkExperience
from insitu.strategies.rehearsal import Augment, SamplesPerStep, WarmUpSamples


class DERPlusPlus(DarkExperience):
    """Holds the outputs for remembered samples, and trains their labels.

    Args:
        memory: where samples and outputs are kept; this strategy is its only writer.
        objective: says how far outputs are from one another.
    """

    name = "der_pp"

    def __init__(
        self,
        memory: Memory,
        objective: Objective,
        *,
        samples_per_step: SamplesPerStep = 32,
        warm_up_samples: WarmUpSamples = 1,
        alpha: Alpha = 0.1,
        beta: Annotated[
            float,
            Field(
                ge=0.0,
                description="weight of the remembered samples' own loss",
                json_schema_extra={"unit": "ratio"},
            ),
        ] = 0.5,
        shared_draw: Annotated[
            bool,
            Field(description="take both terms over one draw of samples_per_step, not over two"),
        ] = False,
        augment: Augment = None,
    ) -> None:
        super().__init__(
            memory,
            objective,
            samples_per_step=samples_per_step,
            warm_up_samples=warm_up_samples,
            augment=augment,
            alpha=alpha,
            label_weight=beta,
        )
        self._shared_draw = shared_draw

    def chosen(self, batch: Batch) -> Indices:
        first = super().chosen(batch)
        return first if self._shared_draw else np.concatenate((first, super().chosen(batch)))

    def parts(self, rows: int) -> tuple[int, int]:
        each = rows if self._shared_draw else rows // 2
        return each, each


COMPONENT = DERPlusPlus
