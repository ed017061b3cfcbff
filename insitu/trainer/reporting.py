"""From the forward pass of a step to its report, without making the device wait."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from insitu.batch import Batch
from insitu.objectives.base import Objective
from insitu.report import Boundary, StepReport


@dataclass(slots=True)
class Forward:
    """What the forward pass gave; `losses` carries the graph and is the objective's own."""

    batch: Batch
    outputs: Tensor
    losses: Tensor
    score: Callable[..., Mapping[str, Tensor]]


def scores_when_asked(
    objective: Objective, batch: Batch, outputs: Tensor
) -> Callable[..., Mapping[str, Tensor]]:
    """The scores of the fresh rows, or of some of them, once somebody wants them."""

    def score(rows: Tensor | None = None) -> Mapping[str, Tensor]:
        fresh, fresh_outputs = batch.fresh(), outputs[: batch.fresh_rows]
        if rows is None:
            return objective.scores(fresh_outputs, fresh)
        chosen = fresh.select(rows, len(rows))
        return objective.scores(fresh_outputs[rows.to(outputs.device)], chosen)

    return score


@dataclass(slots=True)
class Passed:
    """What both passes gave: `total` is the mean loss plus the penalties, without the graph."""

    forward: Forward
    total: Tensor
    penalties: Mapping[str, Tensor]


@dataclass(slots=True)
class Update:
    """One update: its forward pass, what was added to the loss, and whether it was made."""

    forward: Forward
    penalties: Mapping[str, Tensor]
    gradient_norm: Tensor | None
    learning_rate: float
    made: bool


def report(
    update: Update,
    step: int,
    replayed_samples: int,
    phase_seconds: Mapping[str, float],
    boundary: Boundary | None = None,
) -> StepReport:
    """The report of a step by its first update, see `StepReport`; tensors without the graph.

    Args:
        replayed_samples: of all updates of the step.
    """
    forward = update.forward
    return StepReport(
        step=step,
        fresh_samples=forward.batch.fresh_rows,
        replayed_samples=replayed_samples,
        losses=forward.losses.detach(),
        penalties=update.penalties,
        score=forward.score,
        gradient_norm=update.gradient_norm,
        learning_rate=update.learning_rate,
        skipped=not update.made,
        phase_seconds=phase_seconds,
        provenance=forward.batch.provenance,
        boundary=boundary,
    )
