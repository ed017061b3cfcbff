"""What one training step did: frozen, made once by the trainer, read by everybody else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

#: The phases of a step, in order; `wait` and `copy` are filled in by whoever feeds the trainer.
PHASES = ("wait", "copy", "forward", "backward", "strategy", "optimizer")


@dataclass(frozen=True)
class StepReport:
    """One step, without forcing the device to finish it: losses stay 0-dim tensors there.

    Args:
        step: number of this step, from 1.
        fresh_samples, replayed_samples: rows trained from the stream and from memory.
        loss: mean loss of the objective over all rows, without penalties.
        loss_fresh, loss_replayed: the same over the rows of each kind; None without such rows.
        penalties: strategy name -> its penalty, as added to the loss.
        scores: further figures of the objective on the fresh rows (such as `accuracy`), taken
            before the update, so they are prequential: predict first, then learn.
        gradient_norm: L2 norm over all gradients before clipping; None when not taken.
        learning_rate: of the first parameter group, in force during this step.
        skipped: the loss or the gradient was not finite and no update was made.
        phase_seconds: seconds by phase (a key of `PHASES`), by the host's clock.
        produced_at_ns: mean time of production of the fresh rows, ns since 1970; 0 when unknown.
    """

    step: int
    fresh_samples: int
    replayed_samples: int
    loss: Tensor
    loss_fresh: Tensor | None
    loss_replayed: Tensor | None
    penalties: Mapping[str, Tensor]
    scores: Mapping[str, Tensor]
    gradient_norm: Tensor | None
    learning_rate: float
    skipped: bool = False
    phase_seconds: Mapping[str, float] = field(default_factory=dict)
    produced_at_ns: int = 0
