"""Importance that is estimated on a sample of what was trained: at ends of tasks, or now and then.

What EWC, online EWC and MAS share: a uniform sample of the fresh rows of every running task, kept
apart by task, so tasks may run side by side and each is consolidated when it ends. Without tasks
(`every_steps`) importance moves instead: every so many batches it is estimated as G on a uniform
sample of the rows since last time, and

    F <- decay F + (1 - decay) G,   a <- the mean of a and w, weighted by decay F and (1 - decay) G

which is exactly the quadratic sum_k decay^(K - k) (1 - decay) G_k (w - w_k)^2 of all former times
k, less its constant. Important weights so stay near where they were important, and unimportant ones
are free. This joins the moving average of Chaudhry et al., "Riemannian walk" (2018), eq. 6, with
the streaming setting of Aljundi et al., "Task-free continual learning" (2019); the anchor is ours.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from insitu.batch import Batch, Column, SampleFlag
from insitu.criterion import Criterion
from insitu.strategies.anchored import Anchored
from insitu.strategies.base import Observation
from insitu.strategies.quadratics import add_quadratic
from insitu.task_samples import Reservoir, TaskSamples

Samples = Annotated[
    int,
    Field(
        ge=1,
        description="samples kept of every running task to take its importance from",
        json_schema_extra={"unit": "samples"},
    ),
]
EstimateBatchSamples = Annotated[
    int,
    Field(
        ge=1,
        description="samples of one gradient, for batch_mean",
        json_schema_extra={"unit": "samples"},
    ),
]
WorkspaceBytes = Annotated[
    int,
    Field(
        ge=1,
        description="what the gradients of single samples may take at once; at least one sample is "
        "taken at a time",
        json_schema_extra={"unit": "bytes"},
    ),
]
EverySteps = Annotated[
    int | None,
    Field(
        ge=1,
        description="without tasks: take importance every so many batches, as a moving average; "
        "ends of tasks then change nothing",
        json_schema_extra={"unit": "batches"},
    ),
]


class SampledImportance(Anchored):
    """Base: keeps samples, and says when importance is taken from them.

    Args:
        criterion: maps the rows, and has the model.
        optimizer: for its learning rates.
        generator: draws the samples that are kept, on the CPU.
        strength, apply: see `Anchored`.
        decay: share of the old importance that is kept when new is added.
        samples: rows kept of every task, or of the rows since last time.
        every_steps: batches between two consolidations, or None for ends of tasks.
    """

    def __init__(
        self,
        criterion: Criterion,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
        *,
        strength: float,
        apply: Literal["gradient", "proximal"],
        decay: float,
        samples: int,
        every_steps: int | None = None,
    ) -> None:
        super().__init__(criterion, optimizer, strength=strength, apply=apply)
        self._generator = generator
        self._decay = decay
        self._samples_kept = samples
        self._every_steps = every_steps
        self._samples = TaskSamples(samples, generator)
        self._recent = Reservoir(samples, generator)
        self._recent_batches = 0

    @abstractmethod
    def _estimate(self, batch: Batch) -> Mapping[str, Tensor]:
        """The importance by normalised rows, by the name of the parameter."""

    def observe(self, observation: Observation) -> None:
        if not observation.last:
            return
        rows = _rememberable(observation.batch.fresh())
        if self._every_steps is None:
            self._samples.add(rows)
            return
        if rows.rows:
            self._recent.add(rows)
        self._recent_batches += 1
        if self._recent_batches >= self._every_steps:
            self._move()

    def end_task(self, task: int) -> None:
        """Consolidate; a task without samples since it last ended changes nothing."""
        rows = self._samples.rows(task)
        if rows is None:
            return
        self._add_task(self._latest(rows))
        self._samples.forget(task)

    def _add_task(self, latest: list[Tensor]) -> None:
        """F <- decay F + F_task, a <- w."""
        if self._importance:
            torch._foreach_add_(latest, self._importance, alpha=self._decay)
        self.consolidate(latest, self._weights_now())

    def _move(self) -> None:
        """One step of the moving average, over the rows since the last."""
        rows, self._recent_batches = self._recent.rows(), 0
        if rows.rows == 0:
            return
        latest, importance, anchor = self._latest(rows), self._importance, self._anchor
        weights = self._weights_now()
        if importance:
            torch._foreach_mul_(importance, self._decay)
            torch._foreach_mul_(latest, 1.0 - self._decay)
            add_quadratic(importance, anchor, latest, weights)
        else:
            importance, anchor = latest, weights
        self.consolidate(importance, anchor)
        self._recent = Reservoir(self._samples_kept, self._generator)

    def _latest(self, rows: Batch) -> list[Tensor]:
        found = self._estimate(self._criterion.normalised(rows))
        return [found[name] for name in self._criterion.names]

    def _weights_now(self) -> list[Tensor]:
        return [weight.detach().clone() for weight in self._weights]

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "samples": self._samples.state_dict(),
            "recent": {"batches": self._recent_batches, **self._recent.state_dict()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        recent = dict(state["recent"])
        self._recent_batches = int(recent.pop("batches"))
        self._recent = Reservoir(self._samples_kept, self._generator)
        self._recent.load_state_dict(recent)
        # last, since it sets the generator
        self._samples.load_state_dict(state["samples"])


def _rememberable(batch: Batch) -> Batch:
    """The rows that their producer allows to be kept."""
    flags = batch.column(Column.FLAGS).numpy()
    if not flags.any():
        return batch
    return batch.select(torch.from_numpy((flags & SampleFlag.NO_REPLAY) == 0), 0)
