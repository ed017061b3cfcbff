"""Online elastic weight consolidation: hold weights that mattered to former tasks.

Schwarz et al., "Progress & Compress: A scalable framework for continual learning" (2018), section
4.1, after Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks" (2017). With
anchor a (the weights at the end of the last task) and importance F,

    loss += strength / 2 * sum_i F_i (w_i - a_i)^2                       penalty
    at the end of a task:   F <- decay * F + F_task,   a <- w            end_task

F_task is the diagonal of the empirical Fisher information at the weights that end the task, over a
uniform sample of the fresh rows of that task; which gradient feeds it is said in
`insitu.strategies.fisher`. It is normalised as the batches are at that moment.

Deviations: the paper's penalty has a further factor `decay`, which is left to `strength`; it
normalises F_task to compare games of unlike reward, which losses on one scale do not need. Tasks
may run side by side: each has samples of its own and is consolidated when it ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from insitu.batch import Batch, Column, SampleFlag
from insitu.errors import OperatorError
from insitu.normalisation import Normaliser
from insitu.objectives.base import Objective
from insitu.strategies.base import Observation, Strategy, check_state_keys
from insitu.strategies.fisher import FisherEstimate, fisher_diagonal
from insitu.strategies.per_sample import trainable
from insitu.strategies.quadratic_penalty import quadratic_penalty
from insitu.task_samples import TaskSamples


class OnlineEWC(Strategy):
    """Adds a quadratic penalty on moving weights that were important to former tasks.

    Args:
        model: the plain module or a compiled wrapper around it.
        objective: whose loss feeds the Fisher information.
        normaliser: that of the trainer, or None.
        generator: draws the samples that are kept, on the CPU.
    """

    name = "online_ewc"

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        normaliser: Normaliser | None,
        generator: torch.Generator,
        *,
        strength: Annotated[
            float,
            Field(
                ge=0.0,
                description="weight of the penalty; the larger, the less is forgotten and learned",
                json_schema_extra={"unit": "ratio"},
            ),
        ] = 100.0,
        decay: Annotated[
            float,
            Field(
                ge=0.0,
                le=1.0,
                description="share of the old importance that is kept at the end of a task "
                "(gamma in the paper); 1 forgets nothing",
                json_schema_extra={"unit": "ratio"},
            ),
        ] = 0.95,
        fisher: Annotated[
            FisherEstimate,
            Field(
                description="exact squares one gradient a sample; batch_mean squares the gradient "
                "of the mean of a batch, quicker and up to a batch's size too small"
            ),
        ] = "exact",
        fisher_samples: Annotated[
            int,
            Field(
                ge=1,
                description="samples kept of every running task to take its importance from",
                json_schema_extra={"unit": "samples"},
            ),
        ] = 256,
        fisher_batch_samples: Annotated[
            int,
            Field(
                ge=1,
                description="samples of one gradient, for batch_mean",
                json_schema_extra={"unit": "samples"},
            ),
        ] = 32,
        workspace_bytes: Annotated[
            int,
            Field(
                ge=1,
                description="what the gradients of single samples may take at once, for exact; "
                "at least one sample is taken at a time",
                json_schema_extra={"unit": "bytes"},
            ),
        ] = 256 * 2**20,
    ) -> None:
        self._module: nn.Module = getattr(model, "_orig_mod", model)
        self._objective = objective
        self._normaliser = normaliser
        self._strength = strength
        self._decay = decay
        self._estimate: FisherEstimate = fisher
        self._fisher_batch_samples = fisher_batch_samples
        self._workspace_bytes = workspace_bytes
        self._samples = TaskSamples(fisher_samples, generator)
        #: importance and anchor by the name of the parameter; empty before the first task ended
        self.importance: dict[str, Tensor] = {}
        self.anchor: dict[str, Tensor] = {}
        self.consolidations = 0

    def penalty(self, batch: Batch, outputs: Tensor) -> Tensor | None:
        if not self.importance:
            return None
        weights = [self._module.get_parameter(name) for name in self.importance]
        return quadratic_penalty(
            self._strength, list(self.importance.values()), list(self.anchor.values()), weights
        )

    def observe(self, observation: Observation) -> None:
        if observation.last:
            self._samples.add(_rememberable(observation.batch.fresh()))

    def end_task(self, task: int) -> None:
        """Consolidate; a task without samples since it last ended changes nothing."""
        rows = self._samples.rows(task)
        if rows is None:
            return
        batch = rows if self._normaliser is None else self._normaliser.normalise(rows)
        latest = fisher_diagonal(
            self._module,
            self._objective,
            batch,
            estimate=self._estimate,
            batch_rows=self._fisher_batch_samples,
            workspace_bytes=self._workspace_bytes,
        )
        importance = {
            name: self._decay * self.importance[name] + fisher if self.importance else fisher
            for name, fisher in latest.items()
        }
        # the anchor first: who reads `metrics` meanwhile takes an importance as a sign of one
        self.anchor = {name: w.clone() for name, w in trainable(self._module).items()}
        self.importance = importance
        self.consolidations += 1
        self._samples.forget(task)

    def metrics(self) -> Mapping[str, Tensor | float]:
        figures: dict[str, Tensor | float] = {"consolidations": float(self.consolidations)}
        if self.importance:
            importance = torch.cat([f.flatten() for f in self.importance.values()])
            weights = trainable(self._module)
            moved = torch.stack([(weights[n] - a).norm() for n, a in self.anchor.items()])
            figures |= {"importance_mean": importance.mean(), "distance": moved.norm()}
        return figures

    def state_dict(self) -> dict[str, Any]:
        return {
            "consolidations": self.consolidations,
            "importance": dict(self.importance),
            "anchor": dict(self.anchor),
            "samples": self._samples.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        check_state_keys(self.name, state, self.state_dict())
        weights = trainable(self._module)
        for part in ("importance", "anchor"):
            _check_weights(f"{self.name}.{part}", state[part], weights)
        self.anchor = _copied(state["anchor"], weights)
        self.importance = _copied(state["importance"], weights)
        self.consolidations = int(state["consolidations"])
        self._samples.load_state_dict(state["samples"])


def _rememberable(batch: Batch) -> Batch:
    """The rows that their producer allows to be kept."""
    flags = batch.column(Column.FLAGS).numpy()
    if not flags.any():
        return batch
    return batch.select(torch.from_numpy((flags & SampleFlag.NO_REPLAY) == 0), 0)


def _copied(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to(like[name], copy=True) for name, tensor in tensors.items()}


def _check_weights(what: str, found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    shapes = {name: list(tensor.shape) for name, tensor in found.items()}
    if found and shapes != {name: list(tensor.shape) for name, tensor in own.items()}:
        raise OperatorError(
            f"the state of {what} is for parameters {shapes}",
            allowed=f"{ {name: list(tensor.shape) for name, tensor in own.items()} }",
            remedy="resume with the model that the checkpoint was written with",
        )


COMPONENT = OnlineEWC
