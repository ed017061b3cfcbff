"""Online elastic weight consolidation: hold weights that mattered to former tasks.

Schwarz et al., "Progress & Compress: A scalable framework for continual learning" (2018), section
4.1, after Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks" (2017). With
anchor a (the weights at the end of the last task) and importance F,

    penalty = strength / 2 * sum_i F_i (w_i - a_i)^2     adjust_gradients, or adjust_weights
    at the end of a task:   F <- decay * F + F_task,   a <- w            end_task

F_task is the diagonal of the Fisher information at the weights that end the task, over a uniform
sample of the fresh rows of that task; which gradient feeds it is said in
`insitu.strategies.fisher`. It is normalised as the batches are at that moment. How the pull is
applied is said in `insitu.strategies.anchored`; with `every_steps` no ends of tasks are needed, and
importance and anchor move as `insitu.strategies.sampled_importance` says.

Deviations: the pull is a proximal step by default; `apply: gradient` is the paper's, and diverges
where learning rate times strength is large. The paper's penalty has a further factor `decay`, which
is left to `strength`; it normalises F_task to compare games of unlike reward, which losses on one
scale do not need. Tasks may run side by side: each has samples of its own and is consolidated when
it ends.

Costs: one operation over all weights a step (two under `gradient`), which is 15 to 20 % of a step
of a small dense network (784-400-400-10, 64 rows, two threads) and less the more rows a batch has;
at the end of a task about one training pass over `fisher_samples` rows, where the model has plain
layers only.

Keeps: twice the weights (importance and anchor; once more under `proximal`) and `fisher_samples`
rows of every running task. Constant over tasks.

Use it when: former samples may not be kept, tasks are many or without end, and old ones may fade.
Where samples may be kept, replay forgets less; the two compose.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from insitu.batch import Batch
from insitu.criterion import Criterion
from insitu.strategies.anchored import Apply, Decay, Strength
from insitu.strategies.fisher import FisherEstimate, check_estimate, fisher_diagonal
from insitu.strategies.sampled_importance import (
    EstimateBatchSamples,
    EverySteps,
    SampledImportance,
    Samples,
    WorkspaceBytes,
)

Fisher = Annotated[
    FisherEstimate,
    Field(
        description="exact squares one gradient a sample; drawn does with targets drawn from the "
        "model; batch_mean squares the gradient of the mean of a batch, up to a batch's size too "
        "small"
    ),
]


class OnlineEWC(SampledImportance):
    """Pulls weights back that were important to former tasks, where old tasks fade.

    Args:
        criterion: whose loss feeds the Fisher information.
        optimizer: for its learning rates.
        generator: draws the samples that are kept, and targets, on the CPU.
    """

    name = "online_ewc"

    def __init__(
        self,
        criterion: Criterion,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
        *,
        strength: Strength = 100.0,
        decay: Decay = 0.95,
        apply: Apply = "proximal",
        fisher: Fisher = "exact",
        fisher_samples: Samples = 256,
        fisher_batch_samples: EstimateBatchSamples = 32,
        every_steps: EverySteps = None,
        workspace_bytes: WorkspaceBytes = 256 * 2**20,
    ) -> None:
        check_estimate(self.name, criterion.objective, fisher)
        super().__init__(
            criterion,
            optimizer,
            generator,
            strength=strength,
            apply=apply,
            decay=decay,
            samples=fisher_samples,
            every_steps=every_steps,
        )
        self._fisher = fisher
        self._fisher_batch_samples = fisher_batch_samples
        self._workspace_bytes = workspace_bytes

    def _estimate(self, batch: Batch) -> Mapping[str, Tensor]:
        return fisher_diagonal(
            self._criterion.module,
            self._criterion.objective,
            batch,
            estimate=self._fisher,
            batch_rows=self._fisher_batch_samples,
            workspace_bytes=self._workspace_bytes,
            generator=self._generator,
        )


COMPONENT = OnlineEWC
