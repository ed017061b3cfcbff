"""The contract of a draw policy: pure logic on slot numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from insitu.errors import OperatorError
from insitu.sampling import Indices

NO_SLOTS = np.empty(0, np.int64)
NO_SLOTS.flags.writeable = False


class Drawn(NamedTuple):
    """What a policy draws.

    Args:
        slots: the batch, in order; with repetition only from a Reservoir.
        first: those of them that were never drawn before, each once.
        freed: those that the policy no longer holds, each once.
    """

    slots: Indices
    first: Indices
    freed: Indices


class Policy(ABC):
    """Holds admitted slots until they are drawn, evicted or dropped.

    Args:
        capacity_samples: slots of the ring.
        watermark_samples: samples that stay behind until the stream ends.
    """

    #: each sample is drawn exactly once
    draws_once: bool = True

    def __init__(self, capacity_samples: int, *, watermark_samples: int = 0) -> None:
        if capacity_samples < 1:
            raise OperatorError(f"capacity_samples is {capacity_samples}", allowed="1 or more")
        if not 0 <= watermark_samples < capacity_samples:
            raise OperatorError(
                f"watermark_samples is {watermark_samples}",
                allowed=f"0 to {capacity_samples - 1}, less than the capacity",
                consequence="the buffer would fill up before the first draw and wait for ever",
            )
        self.capacity_samples = capacity_samples
        self.watermark_samples = watermark_samples

    @property
    @abstractmethod
    def unseen(self) -> int:
        """Samples held that were never drawn."""

    @property
    def seen(self) -> int:
        """Samples held that were drawn before."""
        return 0

    @property
    def resident_samples(self) -> int:
        """Slots that may stay occupied however long the learner waits for arrivals."""
        return self.watermark_samples

    def room(self) -> int:
        """How many samples can be admitted, evicting seen ones where needed."""
        return self.capacity_samples - self.unseen

    @abstractmethod
    def admit(self, slots: Indices, generator: torch.Generator) -> Indices:
        """Take slots over, at most `room()`, and return those evicted for them."""

    @abstractmethod
    def drawable(self, count: int, visits: Indices, most_draws: int | None, ending: bool) -> int:
        """How many rows, up to `count`, a draw would give now.

        Args:
            visits: number of the visit by slot.
            most_draws: how often one sample may be drawn; None without limit.
            ending: the stream is over: watermarks do not count, each unseen sample comes once.
        """

    def is_cut(self, count: int, visits: Indices) -> bool:
        """Whether a draw of fewer than `count` rows is as long as it will ever get."""
        return False

    @abstractmethod
    def draw(
        self,
        count: int,
        visits: Indices,
        generator: torch.Generator,
        most_draws: int | None,
        ending: bool,
    ) -> Drawn:
        """Draw `count` rows, at most `drawable()`."""

    @abstractmethod
    def drop_oldest(self, count: int) -> Indices:
        """Give up the `count` oldest unseen samples, or all when there are fewer."""

    @abstractmethod
    def held(self) -> Indices:
        """All slots held, the unseen first; a copy."""

    @abstractmethod
    def state_dict(self, number: Indices) -> dict[str, Any]:
        """The slots held, in every order that matters, as int64 tensors.

        Args:
            number: slot -> the number by which it goes in the state, so that the state does not
                depend on where in the ring a sample lies; the state is loaded by that number.
        """

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Hold exactly these slots; an unknown or missing key is an `OperatorError`."""

    def _check_keys(self, state: Mapping[str, Any], *keys: str) -> list[Indices]:
        if set(state) != set(keys):
            raise OperatorError(
                f"the saved state of a {type(self).__name__} buffer has {sorted(state)}",
                allowed=", ".join(keys),
                consequence="it cannot be resumed; was it saved with another buffer policy?",
            )
        return [state[key].numpy() for key in keys]


def as_tensor(numbers: Indices) -> torch.Tensor:
    return torch.from_numpy(np.array(numbers, np.int64))
