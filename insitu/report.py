"""What one training step did: frozen, made once by the trainer, read by everybody else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from insitu.batch import Column
from insitu.segments import EndedTask

#: a plain integer, since indexing by an IntEnum is slow
_PRODUCED_AT_NS = int(Column.PRODUCED_AT_NS)

#: The phases of a step, in order; `wait` and `copy` are filled in by whoever feeds the trainer.
PHASES = ("wait", "copy", "forward", "backward", "strategy", "optimizer")


@dataclass(frozen=True)
class Boundary:
    """Where detectors found that the stream had changed.

    Args:
        detectors: names of those that found it.
        ended: the tasks that ended there.
    """

    detectors: tuple[str, ...]
    ended: tuple[EndedTask, ...]


@dataclass(frozen=True)
class StepReport:
    """One step, without forcing the device to finish it: losses stay 0-dim tensors there.

    Args:
        step: number of this step, from 1.
        fresh_samples: rows trained from the stream.
        replayed_samples: rows trained from memory, of all updates of the step.
        losses: (rows,) loss per sample before the first update, fresh rows first.
        penalties: strategy name -> its penalty, as added to the loss.
        score: makes `scores`; given numbers of fresh rows, the scores of these alone.
        gradient_norm: L2 norm over all gradients before clipping; None when not taken.
        learning_rate: of the first parameter group, in force during this step.
        skipped: the loss or the gradient was not finite and no update was made.
        phase_seconds: seconds by phase (a key of `PHASES`), by the host's clock.
        provenance: (rows, len(Column)) int64 on the CPU, see `insitu.batch`.
        boundary: what detectors found after this step, or None.
    """

    step: int
    fresh_samples: int
    replayed_samples: int
    losses: Tensor
    penalties: Mapping[str, Tensor]
    score: Callable[..., Mapping[str, Tensor]]
    gradient_norm: Tensor | None
    learning_rate: float
    skipped: bool = False
    phase_seconds: Mapping[str, float] = field(default_factory=dict)
    provenance: Tensor | None = None
    boundary: Boundary | None = None

    # What follows is computed when somebody first looks: few steps are looked at, and all pay.

    @cached_property
    def loss(self) -> Tensor:
        """Mean loss of the objective over all rows of the first update, without penalties."""
        return self.losses.mean()

    @cached_property
    def loss_fresh(self) -> Tensor | None:
        """Mean loss over the rows from the stream; None without any."""
        return self.losses[: self.fresh_samples].mean() if self.fresh_samples else None

    @cached_property
    def loss_replayed(self) -> Tensor | None:
        """Mean loss over the rows from memory; None without any."""
        replayed = self.losses[self.fresh_samples :]
        return replayed.mean() if len(replayed) else None

    @cached_property
    def produced_at_ns(self) -> int:
        """Mean time of production of the fresh rows, ns since 1970; 0 when unknown."""
        if self.provenance is None or self.fresh_samples == 0:
            return 0
        # Python's integers, as the sum of a few such times overflows 64 bits
        times = self.provenance[: self.fresh_samples, _PRODUCED_AT_NS].tolist()
        return int(sum(times) // len(times))

    @cached_property
    def scores(self) -> Mapping[str, Tensor]:
        """Further figures of the objective on the fresh rows, such as `accuracy`.

        From the outputs before the update, so they are prequential: predict first, then learn.
        The rows themselves lie in a block that is filled again three batches later, so look at
        the newest report and not at an old one.
        """
        return self.score() if self.fresh_samples else {}

    def scores_of(self, rows: Tensor) -> Mapping[str, Tensor]:
        """The scores of some fresh rows alone, by their numbers (int64, on the CPU)."""
        return self.score(rows)
