"""Loss-aware reservoir sampling: what is learned already makes room first.

Buzzega et al., "Rethinking Experience Replay: a Bag of Tricks for Continual Learning", ICPR 2020,
LARS. A sample is let in as by a reservoir, with probability capacity / samples so far; the one that
goes is drawn by its loss,

    P(i goes) ~ (max_j l_j - l_i) / (max_j l_j - min_j l_j)

so a sample with a low loss is likely to go and the one with the highest stays. A loss is that of
when the sample was last trained: fresh when it came, replayed since.

Deviations: with more samples than `candidates`, maximum, minimum and draw are over so many slots
drawn uniformly, so that the cost does not grow with the memory; with fewer it is the paper's rule.
A whole batch at a time: its rows take different slots. Where all losses are the same all are
equally likely to go; a loss that was never told counts as the mean of the others. On a GPU losses
count from the step after, so that nothing waits for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from insitu.batch import Batch
from insitu.memory.base import Memory
from insitu.memory.losses_on_host import LossesOnHost
from insitu.sampling import Indices, distinct


class LossAware(Memory):
    """Remembers what is hard to learn rather than what is easy.

    Example:
        >>> memory = LossAware(2, torch.device("cpu"), torch.Generator().manual_seed(0))
        >>> for start in range(0, 90, 3):
        ...     losses = torch.full((3,), 0.1)
        ...     losses[0] = 9.0 if start == 0 else 0.2
        ...     memory.add(Batch.of({"x": torch.arange(start, start + 3)}), losses)
        >>> memory.last_loss.max().item()
        9.0
    """

    def __init__(
        self,
        capacity_samples: int,
        device: torch.device,
        generator: torch.Generator,
        *,
        candidates: Annotated[
            int,
            Field(
                ge=1,
                description="remembered samples among which the one to go is chosen",
                json_schema_extra={"unit": "samples"},
            ),
        ] = 256,
    ) -> None:
        super().__init__(capacity_samples, device, generator)
        self._candidates = candidates
        self._losses = LossesOnHost(capacity_samples)

    def _place(self, batch: Batch, rows: Indices) -> tuple[Indices, Indices]:
        begin, count = self.offered_samples, len(rows)
        free = max(self.capacity_samples - begin, 0)
        if count <= free:
            return np.arange(begin, begin + count), rows
        new = np.arange(begin, begin + free)
        draws = torch.rand(count - free, dtype=torch.float64, generator=self._generator).numpy()
        number = np.arange(begin + free + 1, begin + count + 1)
        let_in = np.flatnonzero(draws * number < self.capacity_samples)
        slots = np.concatenate((new, self._to_go(len(let_in))))
        return slots, np.concatenate((rows[:free], rows[free:][let_in]))

    def _to_go(self, count: int) -> Indices:
        """`count` slots of samples that go, drawn by their losses, different if there are enough.

        Drawing without replacement by weights is the order of log(u) / w (Efraimidis and Spirakis,
        "Weighted random sampling with a reservoir", 2006).
        """
        held = self.capacity_samples  # the first rows of a batch may have filled the last slots
        if count == 0:
            return np.zeros(0, np.int64)
        slots = distinct(held, min(max(self._candidates, count), held), self._generator)
        weights = _weights(self._losses.values()[slots].astype(np.float64))
        draws = torch.rand(len(slots), dtype=torch.float64, generator=self._generator).numpy()
        with np.errstate(divide="ignore", invalid="ignore"):
            order = np.argsort(-np.log1p(-draws) / weights, kind="stable")
        return slots[order[np.arange(count) % len(order)]]

    def _remembered(self, slots: Indices, rows: Indices, losses: Tensor | None) -> None:
        chosen = None if losses is None else losses[torch.from_numpy(rows).to(losses.device)]
        self._losses.tell(slots, chosen)

    def _losses_told(self, slots: Indices, losses: Tensor) -> None:
        self._losses.tell(slots, losses)

    def _load_policy_state(self, state: Mapping[str, Any]) -> None:
        self._losses.load(self.last_loss)


def _weights(losses: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """How likely each is to go, up to a factor; 0 for the highest loss.

    Example:
        >>> _weights(np.array([1.0, 3.0, 2.0, np.nan])).tolist()
        [1.0, 0.0, 0.5, 0.5]
    """
    known = np.isfinite(losses)
    if not known.any():
        return np.ones(len(losses))
    filled = np.where(known, losses, losses[known].mean())
    highest, lowest = filled.max(), filled.min()
    if highest == lowest:
        return np.ones(len(losses))
    weights: npt.NDArray[np.float64] = (highest - filled) / (highest - lowest)
    return weights


COMPONENT = LossAware
