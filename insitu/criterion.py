"""Model, objective and normaliser as one function: raw rows -> outputs -> losses -> gradient.

The trainer's own forward pass goes through it, and so do strategies and memories that need
another one: the reference gradient of A-GEM, the candidates of MIR, the teacher of LwF.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from insitu.batch import Batch, Column
from insitu.layers.standardisation import BatchStandardisation
from insitu.layers.task_statistics import rows_of_tasks
from insitu.normalisation import Normaliser
from insitu.objectives.base import Objective

Precision = Literal["float32", "bfloat16"]


class Criterion:
    """What the weights are judged by.

    Args:
        model: on its device; may be wrapped by `torch.compile`.
        objective: what to do with a batch.
        normaliser: maps raw rows, or None. It is read here, never counted.
        precision: `bfloat16` runs the model under autocast.

    Example:
        >>> from insitu.objectives.regress import Regress
        >>> from insitu.schema import Schema
        >>> schema = Schema.of({"x": ("float32", (1,)), "y": ("float32", (1,))})
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.ones_(model.weight)
        >>> criterion = Criterion(model, Regress(schema))
        >>> batch = Batch.of({"x": torch.ones(2, 1), "y": torch.tensor([[0.0], [3.0]])})
        >>> criterion.gradient(batch)
        [tensor([[-1.]])]
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        normaliser: Normaliser | None = None,
        *,
        precision: Precision = "float32",
    ) -> None:
        self.model = model
        #: the plain module where `model` is a compiled wrapper, else the model itself
        self.module: nn.Module = getattr(model, "_orig_mod", model)
        self.objective = objective
        self.normaliser = normaliser
        self.precision = precision
        named = [(name, p) for name, p in self.module.named_parameters() if p.requires_grad]
        self._standardisations = [
            part for part in self.module.modules() if isinstance(part, BatchStandardisation)
        ]
        #: names and tensors of all trainable parameters, in the order of the module
        self.names = [name for name, _ in named]
        self.parameters = [parameter for _, parameter in named]

    def normalised(self, raw: Batch) -> Batch:
        """The batch as the model sees it."""
        return raw if self.normaliser is None else self.normaliser.normalise(raw)

    def outputs(self, normalised: Batch) -> Tensor:
        """(rows, *output_shape), with the graph, for rows that are normalised already."""
        with self._autocast(), self._by_task(normalised):
            return self.objective.predict(self.model, normalised)

    def losses(self, raw: Batch) -> Tensor:
        """(rows,) the objective's loss of every raw row, with the graph."""
        batch = self.normalised(raw)
        return self.objective.losses(self.outputs(batch), batch)

    def gradient(self, raw: Batch, weights: Tensor | None = None) -> list[Tensor]:
        """The gradient of the mean loss over raw rows, one tensor a parameter, zeros where unused.

        The parameters' `.grad` stays as it is. In training mode layers with running statistics
        count these rows, as they count all that pass.

        Args:
            weights: (rows,) of each row's loss in a weighted sum, in place of the mean.
        """
        losses = self.losses(raw)
        loss = losses.mean() if weights is None else (losses * weights).sum()
        return self.gradient_of(loss)

    def gradient_of(self, loss: Tensor, *, retain_graph: bool = False) -> list[Tensor]:
        """The gradient of a 0-dim loss by all trainable parameters, zeros where unused."""
        found: Sequence[Tensor | None] = torch.autograd.grad(
            loss, self.parameters, retain_graph=retain_graph, allow_unused=True
        )
        return [
            torch.zeros_like(parameter) if gradient is None else gradient
            for gradient, parameter in zip(found, self.parameters, strict=True)
        ]

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.model_device.type, dtype=torch.bfloat16)

    def _by_task(self, batch: Batch) -> AbstractContextManager[Any]:
        """Where tasks have statistics of their own: which task each row is of, if that is known.

        In training it always is; else only where the objective says that who asks knows it.
        """
        kept = [part.of_tasks for part in self._standardisations if part.of_tasks is not None]
        if not kept or not (self.module.training or self.objective.tasks_are_given):
            return nullcontext()
        return rows_of_tasks(kept, batch.column(Column.TASK).tolist())

    @property
    def model_device(self) -> torch.device:
        return self.parameters[0].device
