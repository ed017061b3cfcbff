"""Reservoir sampling: every sample so far is remembered with the same probability.

Vitter, "Random Sampling with a Reservoir", ACM TOMS 11 (1985), algorithm R. Sample number t
(from 1) takes slot t while there are free ones; afterwards it takes a uniform slot below t if
that is one of the memory's, else it is passed over. So after n samples each of them is in a
memory of N with probability N / n.

Deviation: a whole batch at a time. Each row has its own random number and of several rows for
one slot the last stays, so the outcome has exactly the distribution of one row after the other.
"""

from __future__ import annotations

import numpy as np
import torch

from insitu.batch import Batch
from insitu.memory.base import Memory
from insitu.sampling import Indices


class Reservoir(Memory):
    """Remembers a uniform choice of all samples so far.

    Example:
        >>> memory = Reservoir(2, torch.device("cpu"), torch.Generator().manual_seed(0))
        >>> memory.add(Batch.of({"x": torch.arange(5.0)}))
        >>> len(memory), memory.sample(3).rows
        (2, 3)
    """

    def _place(self, batch: Batch, rows: Indices) -> tuple[Indices, Indices]:
        begin, count = self.offered_samples, len(rows)
        draws = torch.rand(count, dtype=torch.float64, generator=self._generator).numpy()
        number = np.arange(begin + 1, begin + count + 1)
        free = self.capacity_samples - begin
        if count <= free:
            return number - 1, rows
        slots = draws * number
        if free > 0:
            slots[:free] = number[:free] - 1
        kept = (slots < self.capacity_samples).nonzero()[0]
        return slots[kept].astype(np.int64), rows[kept]


COMPONENT = Reservoir
