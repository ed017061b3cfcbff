"""Class-balancing reservoir sampling: rare classes keep their place beside frequent ones.

Chrysakis and Moens, "Online Continual Learning from Imbalanced Data", ICML 2020, algorithm 1
(CBRS), as in `insitu.memory.balanced_reservoir`: a new sample of a class that has never been among
the largest takes the place of a uniform sample of a largest class; within a class every sample is
kept with the same probability. The sizes of classes that have offered enough differ by one at most.

Deviations: where several classes are the largest, one of them is taken at random.

With more classes than room, a class that appears takes the place of one of those that are there,
and a class that has lost its last sample does not come back. Rows without a label carry some number
too, -1 by custom: they are a class like any other.
"""

from __future__ import annotations

import torch

from insitu.batch import Batch
from insitu.memory.balanced_reservoir import BalancedReservoir
from insitu.memory.groups import LabelOption, MostClassesOption, check_label, labels
from insitu.sampling import Indices
from insitu.schema import Schema


class ClassBalanced(BalancedReservoir):
    """Remembers about as many samples of every class, each class by a reservoir of its own.

    Example:
        >>> memory = ClassBalanced(4, torch.device("cpu"), torch.Generator().manual_seed(0))
        >>> memory.add(Batch.of({"y": torch.tensor([0] * 90 + [1] * 2)}))
        >>> sorted(memory.sample(4).fields["y"].tolist())
        [0, 0, 1, 1]
    """

    def __init__(
        self,
        capacity_samples: int,
        device: torch.device,
        generator: torch.Generator,
        *,
        label: LabelOption = "y",
        most_classes: MostClassesOption = 10_000,
    ) -> None:
        super().__init__(capacity_samples, device, generator, most_classes)
        self._label = label

    def check_stream(self, schema: Schema) -> None:
        check_label(schema, self._label)

    def _labels(self, batch: Batch) -> Indices:
        return labels(batch, self._label)


COMPONENT = ClassBalanced
