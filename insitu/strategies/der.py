"""Dark experience replay: remembered samples shall give the outputs they once gave.

Buzzega et al., "Dark Experience for General Continual Learning: a Strong, Simple Baseline" (2020),
equation 6. The memory keeps the model's outputs z beside every sample x, and

    loss = mean loss(fresh) + alpha * mean distance(z, f(x))

over one draw from the memory. The labels of remembered samples are not trained. Outputs are those
of the update in which the sample was fresh (the last one of `updates_per_batch`), before it.

Deviations: distances are the objective's, so it works with other outputs than logits; by default
the mean squared difference, as in the paper. Without tasks or boundaries, as the paper has it. Two
strategies that weigh rows side by side multiply their weights.

Costs: forward and backward passes over `samples_per_step` more rows.

Keeps: `memory.capacity_samples` raw samples with the outputs for them.

Use it when: outputs tell more than labels do: many classes, regression, autoencoders; or labels
are noisy or missing. `der_pp` is mostly better where labels can be trusted.
"""

from __future__ import annotations

from insitu.memory.base import Memory
from insitu.objectives.base import Objective
from insitu.strategies.dark_experience import Alpha, DarkExperience
from insitu.strategies.rehearsal import Augment, SamplesPerStep, WarmUpSamples


class DER(DarkExperience):
    """Holds the outputs for remembered samples.

    Args:
        memory: where samples and outputs are kept; this strategy is its only writer.
        objective: says how far outputs are from one another.
    """

    name = "der"

    def __init__(
        self,
        memory: Memory,
        objective: Objective,
        *,
        samples_per_step: SamplesPerStep = 32,
        warm_up_samples: WarmUpSamples = 1,
        alpha: Alpha = 0.3,
        augment: Augment = None,
    ) -> None:
        super().__init__(
            memory,
            objective,
            samples_per_step=samples_per_step,
            warm_up_samples=warm_up_samples,
            augment=augment,
            alpha=alpha,
        )


COMPONENT = DER
