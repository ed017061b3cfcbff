"""What the stream buffer looks like from outside: frozen, taken under its lock, read by anybody."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TaskFill:
    """Samples of one task: arrived = trained + dropped + unseen.

    Args:
        unseen: in the buffer and not drawn yet, those not admitted included.
        seen: drawn before and kept for another time.
        trained: drawn for the first time, ever.
        dropped: given up without being drawn, ever.
    """

    name: str
    unseen: int
    seen: int
    arrived: int
    trained: int
    dropped: int


@dataclass(frozen=True)
class BufferStatus:
    """Fill and counters, in samples; received = drawn_first + unseen + dropped.

    Args:
        free_samples: slots that a reservation could get now.
        reserved_samples: slots of batches that are being received.
        arrivals_samples: arrived, and not admitted by the pace yet; part of `unseen_samples`.
        drawn: rows drawn, repetitions included; `drawn_first` counts each sample once.
        evicted: seen samples that made room or were drawn often enough.
        ended: the stream is over.
    """

    capacity_samples: int
    free_samples: int
    reserved_samples: int
    arrivals_samples: int
    unseen_samples: int
    seen_samples: int
    received: int
    drawn_first: int
    drawn: int
    dropped: int
    evicted: int
    tasks: tuple[TaskFill, ...]
    ended: bool
