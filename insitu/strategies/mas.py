"""Memory aware synapses: hold weights to which the model's outputs are sensitive.

Aljundi et al., "Memory Aware Synapses: Learning what (not) to forget" (2018), eq. 2-4. With f(x)
the outputs of the model for a sample and anchor a (the weights at the end of the last task),

    at the end of a task:   F <- decay * F + 1/N sum_n | d |f(x_n)|^2 / d w |,   a <- w     end_task
    penalty = strength / 2 * sum_i F_i (w_i - a_i)^2         adjust_gradients, or adjust_weights

The gradient is that of the squared length of the outputs (section 4.1 of the paper), so no labels
are read, and one gradient a sample, since absolute values do not add up. `batch_mean` takes the
gradient of the mean over a batch, as much published code does: gradients of opposite sign cancel
first, so it comes out too small. How the pull is applied is said in `insitu.strategies.anchored`.

Deviations: the pull is a proximal step by default; `apply: gradient` is the paper's, and diverges
where learning rate times strength is large. The paper's penalty has no half, so strength is 2
lambda there. F may decay (`decay` 1 is the paper's). Only fresh rows of the task are asked, a
uniform sample of them. With `every_steps` no ends of tasks are needed: importance and anchor move
as `insitu.strategies.sampled_importance` says; Aljundi et al., "Task-free continual learning"
(2019), look for plateaus of the loss instead.

Costs: one operation over all weights a step (two under `gradient`), which is 15 to 20 % of a step
of a small dense network (784-400-400-10, 64 rows, two threads) and less the more rows a batch has;
at the end of a task about one training pass over `samples` rows, where the model has plain
layers only.

Keeps: twice the weights (importance and anchor; once more under `proximal`) and `samples` rows of
every running task. Constant over tasks.

Use it when: labels are missing or the loss is near zero at the end of tasks, where a Fisher
information of the observed targets vanishes; with any objective.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from insitu.batch import Batch
from insitu.criterion import Criterion
from insitu.objectives.base import Objective
from insitu.strategies.anchored import Apply, Decay, Strength
from insitu.strategies.per_sample import batch_means_of_powers, sums_of_powers
from insitu.strategies.rows import rows_of, seen
from insitu.strategies.sampled_importance import (
    EstimateBatchSamples,
    EverySteps,
    SampledImportance,
    Samples,
    WorkspaceBytes,
)


class MAS(SampledImportance):
    """Pulls weights back by which the outputs for former tasks would change.

    Args:
        criterion: has the model whose outputs are looked at.
        optimizer: for its learning rates.
        generator: draws the samples that are kept, on the CPU.
    """

    name = "mas"

    def __init__(
        self,
        criterion: Criterion,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
        *,
        strength: Strength = 1.0,
        decay: Decay = 1.0,
        apply: Apply = "proximal",
        sensitivity: Annotated[
            Literal["exact", "batch_mean"],
            Field(
                description="exact takes one gradient a sample; batch_mean that of the mean of a "
                "batch, up to a batch's size too small"
            ),
        ] = "exact",
        samples: Samples = 256,
        batch_samples: EstimateBatchSamples = 32,
        every_steps: EverySteps = None,
        workspace_bytes: WorkspaceBytes = 256 * 2**20,
    ) -> None:
        super().__init__(
            criterion,
            optimizer,
            generator,
            strength=strength,
            apply=apply,
            decay=decay,
            samples=samples,
            every_steps=every_steps,
        )
        self._sensitivity = sensitivity
        self._batch_samples = batch_samples
        self._workspace_bytes = workspace_bytes

    def _estimate(self, batch: Batch) -> Mapping[str, Tensor]:
        module, objective = self._criterion.module, self._criterion.objective
        rows, values = rows_of(objective, batch), _SquaredLength(objective)
        if self._sensitivity == "batch_mean":
            return batch_means_of_powers(
                module, values, rows, power=1, batch_rows=self._batch_samples
            )
        sums = sums_of_powers(module, values, rows, power=1, workspace_bytes=self._workspace_bytes)
        return {name: total.div_(batch.rows) for name, total in sums.items()}


class _SquaredLength:
    """|f(x)|^2 of every row."""

    def __init__(self, objective: Objective) -> None:
        self._objective = objective

    def __call__(self, module: nn.Module, rows: Mapping[str, Tensor]) -> Tensor:
        return self._objective.predict(module, seen(rows)).square().flatten(1).sum(1)


COMPONENT = MAS
