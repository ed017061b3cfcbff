"""From the forward pass of a step to its report, without making the device wait."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from insitu.batch import Batch, Column
from insitu.report import StepReport

#: a plain integer, since indexing by an IntEnum is slow
_PRODUCED_AT_NS = int(Column.PRODUCED_AT_NS)


@dataclass(slots=True)
class Forward:
    """What the forward pass gave; `losses` and `loss` carry the graph."""

    batch: Batch
    outputs: Tensor
    losses: Tensor
    loss: Tensor
    score: Callable[[], Mapping[str, Tensor]]


def report(
    forward: Forward,
    *,
    step: int,
    penalties: Mapping[str, Tensor],
    gradient_norm: Tensor | None,
    learning_rate: float,
    skipped: bool,
    phase_seconds: Mapping[str, float],
) -> StepReport:
    """The report of a step, see `StepReport`; tensors without the graph."""
    batch = forward.batch
    return StepReport(
        step=step,
        fresh_samples=batch.fresh_rows,
        replayed_samples=batch.replayed_rows,
        loss=forward.loss.detach(),
        losses=forward.losses.detach(),
        penalties={name: penalty.detach() for name, penalty in penalties.items()},
        score=forward.score,
        gradient_norm=gradient_norm,
        learning_rate=learning_rate,
        skipped=skipped,
        phase_seconds=phase_seconds,
        produced_at_ns=_mean_produced_at_ns(batch),
    )


def _mean_produced_at_ns(batch: Batch) -> int:
    if batch.fresh_rows == 0:
        return 0
    # Python's integers, as the sum of a few such times overflows 64 bits
    times = batch.provenance[: batch.fresh_rows, _PRODUCED_AT_NS].tolist()
    return int(sum(times) // len(times))
