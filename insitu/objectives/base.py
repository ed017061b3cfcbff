"""The objective contract: fields of a batch -> outputs -> one loss a sample.

An objective knows which fields it reads and what the model must take and give. It is built from
the stream's schema, `Objective(schema, *, options)`, and refuses a schema it cannot work on, so a
wrong configuration fails before the first sample. It draws nothing by itself. What it learns from
the stream (which classes have appeared, the means of their features) is in `state_dict`, moves only
in `observe`, and never in `losses` or `scores`. A batch may be trained several times in a row;
`observe` is called after every update and told which is the last, so that a row counts once.

**Units.** The trainer hands in batches whose fields the `Normaliser` has mapped already, inputs
and real-valued targets alike. Losses and scores are therefore in units of the running standard
deviation; `Normaliser.denormalise` takes outputs back to physical ones. Without a normaliser they
are in the units of the fields themselves (integers: see `insitu.normalisation.unit_range`).

**One loss a sample.** `losses` never reduces over the rows: replay tells fresh from remembered
rows, memories keep the loss of a sample, and a Fisher information is a mean over samples.
Reduction over the elements of one sample is a mean, so losses compare between shapes. Where a row's
loss depends on the other rows (a contrastive loss), `row_by_row` is False, and strategies that need
a gradient per sample refuse the objective.

**Parameters of its own.** An objective that needs more layers than the model has (a projection
head) wraps it in `network`; they are trained, counted and saved like the model's.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from insitu.batch import Batch
from insitu.errors import InternalError, OperatorError
from insitu.normalisation.unit_range import to_unit_range


class Headline(NamedTuple):
    """The score by which results are compared, between tasks and between runs."""

    score: str
    higher_is_better: bool


class Objective(ABC):
    """Base of all objectives.

    Args:
        input_field: the field that the model is fed.
        input_shape: its shape without rows.
        output_shape: the shape of the model's output without rows.
        statistics_of: real-valued field -> the field whose running statistics normalise it
            (itself, or the input where both hold the same quantity).
        label_range: integer field -> smallest and largest label; the service enforces it at the
            door, since a GPU answers a label out of range by aborting the process.
    """

    #: `loss` or a name of `scores`
    headline: ClassVar[Headline] = Headline("loss", higher_is_better=False)
    #: whether the loss of a row depends on that row alone
    row_by_row: ClassVar[bool] = True
    #: whether the loss is a negative log likelihood up to a constant, so targets can be drawn
    is_likelihood: ClassVar[bool] = False

    def __init__(
        self,
        *,
        input_field: str,
        input_shape: tuple[int, ...],
        output_shape: tuple[int, ...],
        statistics_of: Mapping[str, str],
        label_range: Mapping[str, tuple[int, int]] | None = None,
    ) -> None:
        self.input_field = input_field
        self.input_shape = input_shape
        self.output_shape = output_shape
        self.statistics_of = dict(statistics_of)
        self.label_range = dict(label_range or {})

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of all fields that are read."""
        return tuple(dict.fromkeys((self.input_field, *self.statistics_of, *self.label_range)))

    def inputs(self, batch: Batch) -> Tensor:
        """What the model is fed: (rows, *input_shape), float32."""
        return self.real(batch, self.input_field)

    @property
    def tasks_are_given(self) -> bool:
        """Whether a row comes with its task also when it is asked for, not only in training."""
        return False

    @property
    def predicted_shape(self) -> tuple[int, ...]:
        """The shape of what `predict` gives, without rows: other than `output_shape`, which is
        the model's, where `network` or `predict` add to it."""
        return self.output_shape

    def predict(self, model: nn.Module, batch: Batch) -> Tensor:
        """The network's outputs for the batch: (rows, *predicted_shape)."""
        outputs: Tensor = model(self.inputs(batch))
        return outputs

    def network(self, model: nn.Module) -> nn.Module:
        """The module to train: the model, or a wrapper around it with parameters of our own."""
        return model

    def labels(self, batch: Batch) -> Tensor | None:
        """(rows,) int64 class of every row; None where there are no classes."""
        return None

    def distances(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(rows,) how far outputs are from other outputs for the same rows, differentiable.

        What distillation and DER pull by. By default the mean squared difference over the
        elements of a row (Buzzega et al., "Dark Experience for General Continual Learning", 2020,
        eq. 5).
        """
        squares = (outputs - targets).square()
        return squares.reshape(squares.shape[0], math.prod(squares.shape[1:])).mean(dim=1)

    def drawn_targets(self, outputs: Tensor, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch with targets drawn from the model's own distribution, for a true Fisher.

        Only where `is_likelihood`; hand the result to `losses` beside the same outputs, and never
        to `predict`, since input and target may be one field.
        """
        raise InternalError(f"{type(self).__name__} is no likelihood to draw targets from")

    def observe(  # noqa: B027 (most learn nothing)
        self, outputs: Tensor, batch: Batch, *, last: bool = True
    ) -> None:
        """Learn from a finished update.

        Args:
            outputs: the model's, before the update, detached.
            batch: the rows that were trained, normalised, replayed rows last.
            last: whether this was the last update on these fresh rows; False in the others of
                `updates_per_batch`. What counts fresh rows counts them there, so each counts once;
                replayed rows were drawn anew for every update.
        """

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state; an unknown or missing key is refused by name."""
        if set(state) != set(self.state_dict()):
            raise OperatorError(
                f"the state of objective {type(self).__name__} holds {sorted(state)}",
                allowed=f"{sorted(self.state_dict())}",
                remedy="resume with the objective that the checkpoint was written with",
            )

    def fitting(self, key: str, saved: Tensor, own: Tensor) -> Tensor:
        """A copy of a saved tensor on the device of our own; another shape is refused by name."""
        if saved.shape != own.shape:
            raise OperatorError(
                f"the state of objective {type(self).__name__} has {key} of {list(saved.shape)}",
                allowed=f"{list(own.shape)}",
                remedy="resume with the options that the checkpoint was written with",
            )
        return saved.detach().to(device=own.device, dtype=own.dtype, copy=True)

    @abstractmethod
    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The loss of every sample: (rows,), float32, differentiable."""

    @abstractmethod
    def scores(self, outputs: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        """Figures for people, by name: 0-dim tensors on the device; NaN without rows."""

    @staticmethod
    def real(batch: Batch, name: str) -> Tensor:
        """A field as float32, (rows, *shape)."""
        return to_unit_range(batch.fields[name]).to(torch.float32)

    def checked(self, outputs: Tensor) -> Tensor:
        """The outputs as float32; a model that gives another shape is the operator's fault."""
        if tuple(outputs.shape[1:]) != self.predicted_shape:
            raise OperatorError(
                f"the model gives outputs of shape {list(outputs.shape[1:])} per sample",
                allowed=f"{list(self.predicted_shape)}",
                consequence="broadcasting them would train something else, so the step is refused",
                remedy="let your model factory use its output_shape",
            )
        return outputs.to(torch.float32)
