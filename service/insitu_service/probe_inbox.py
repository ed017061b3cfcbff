"""Where the ingest thread leaves held-out rows for the learner, who keeps the probe sets."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from insitu.batch import Batch


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """A batch of held-out rows: its task by name, and its number at its producer."""

    task: str
    batch: Batch
    producer_id: str
    epoch: int
    seq: int


class ProbeInbox:
    """A bounded queue of small batches; when it is full the newest is refused and counted.

    Appending and popping a deque is atomic, so there is no lock.
    """

    def __init__(self, capacity_batches: int = 10_000) -> None:
        self._batches: deque[Probe] = deque()
        self._capacity_batches = capacity_batches
        self.refused_batches = 0

    def put(self, probe: Probe) -> None:
        """Called by the ingest thread."""
        if len(self._batches) >= self._capacity_batches:
            self.refused_batches += 1
            return
        self._batches.append(probe)

    def take_all(self) -> list[Probe]:
        """Called by the learner: what has come since the last call, in order."""
        return [self._batches.popleft() for _ in range(len(self._batches))]
