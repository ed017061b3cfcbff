"""Where the ingest thread leaves held-out rows for the learner, who keeps the probe sets."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from insitu.batch import Batch
from insitu.stream.stamp import Stamp


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """A batch of held-out rows: its task by name, and whose they are."""

    task: str
    batch: Batch
    producer_id: str
    epoch: int


class ProbeInbox:
    """A bounded queue of batches; what finds it full stays with its producer.

    Appending and popping a deque is atomic and each counter has one writer, so there is no lock.

    Args:
        capacity_bytes: of the samples that wait; a single batch may be larger.
    """

    def __init__(self, capacity_bytes: int = 64 << 20) -> None:
        self._batches: deque[Probe] = deque()
        self._capacity_bytes = capacity_bytes
        self._put_bytes = 0
        self._taken_bytes = 0

    def put(self, probe: Probe) -> bool:
        """Called by the ingest thread; False when there is no room now."""
        waiting = self._put_bytes - self._taken_bytes
        size = _size_bytes(probe)
        if waiting and waiting + size > self._capacity_bytes:
            return False
        self._put_bytes += size
        self._batches.append(probe)
        return True

    def take(self, stamp: Stamp, batch: Batch) -> bool:
        """As the sink of an inlet, see `insitu.stream.inlet`."""
        return self.put(Probe(stamp.task, batch, stamp.producer_id, stamp.epoch))

    def take_all(self) -> list[Probe]:
        """Called by the learner: what has come since the last call, in order."""
        taken = [self._batches.popleft() for _ in range(len(self._batches))]
        self._taken_bytes += sum(map(_size_bytes, taken))
        return taken


def _size_bytes(probe: Probe) -> int:
    tensors = (*probe.batch.fields.values(), probe.batch.provenance)
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
