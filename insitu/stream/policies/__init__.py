"""Which admitted samples a draw takes, and which make room: FIFO, FIRO and Reservoir.

The three buffers of Melissa (Meyer et al., "Training deep surrogate models with large scale
online learning", ICML 2023, and "High throughput training of deep surrogates from large
ensemble runs", SC 2023), as pure logic on slot numbers: no data, no lock, no clock. Every
operation costs O(rows it moves), on preallocated arrays; a policy draws random numbers only
from the generator it is handed, so the same calls give the same answers.

Deviations: our Reservoir evicts when a sample is admitted, not when it arrives, so that its
random numbers depend on the order of arrivals only; it therefore keeps a share of the ring free
for arrivals (`kept_samples`). It can retire a sample after a number of draws (`FreePace`).
"""

from insitu.stream.policies.base import NO_SLOTS, Drawn, Policy
from insitu.stream.policies.fifo import FIFO
from insitu.stream.policies.firo import FIRO
from insitu.stream.policies.reservoir import Reservoir

__all__ = ["FIFO", "FIRO", "NO_SLOTS", "Drawn", "Policy", "Reservoir"]
