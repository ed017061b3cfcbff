"""Which places of a file may be written to, while saved states still name some of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from insitu.sampling import Indices


class Places:
    """Numbers `[0, count)`: in use, free, or in quarantine.

    A place that was filled after the newest state is named by none and free as soon as it is let
    go; any other waits until enough checkpoints are on the disk that were made after it was let go.

    Args:
        quarantine_checkpoints: how many.

    Example:
        >>> places = Places(1)
        >>> places.grow(2)
        >>> first = places.take(1)
        >>> places.named_by_a_state(); places.free(first)
        >>> places.available()
        1
        >>> places.named_by_a_state(); places.available()
        2
    """

    def __init__(self, quarantine_checkpoints: int) -> None:
        self._quarantine_checkpoints = quarantine_checkpoints
        self._states = 0
        self._written: Callable[[], int] = lambda: self._states
        self.clear()

    def clear(self) -> None:
        """There are none."""
        self.count = 0
        self._free: list[int] = []
        self._filled_after = np.zeros(0, np.int64)  # place -> states that were taken before
        self._quarantine: deque[tuple[int, list[int]]] = deque()  # checkpoints then, places

    def count_checkpoints_by(self, written: Callable[[], int]) -> None:
        """Use this count, which only grows, in place of the number of states."""
        shift = written() - self._written()
        self._quarantine = deque((then + shift, places) for then, places in self._quarantine)
        self._written = written

    def grow(self, more: int) -> None:
        """There are so many more, all free."""
        self._free.extend(range(self.count + more - 1, self.count - 1, -1))
        self._filled_after = np.concatenate((self._filled_after, np.zeros(more, np.int64)))
        self.count += more

    def available(self) -> int:
        """How many are free, after letting go of those whose quarantine is over."""
        over = self._written() - self._quarantine_checkpoints
        while self._quarantine and self._quarantine[0][0] <= over:
            self._free.extend(self._quarantine.popleft()[1])
        return len(self._free)

    def take(self, count: int) -> Indices:
        """So many free places, which are in use from now on."""
        taken = np.array(self._free[len(self._free) - count :], np.int64)
        del self._free[len(self._free) - count :]
        self._filled_after[taken] = self._states
        return taken

    def free(self, places: Indices) -> None:
        """These are in use no more."""
        named = self._filled_after[places] < self._states
        self._free.extend(places[~named].tolist())
        waiting = places[named].tolist()
        if not waiting:
            return
        now = self._written()
        if self._quarantine and self._quarantine[-1][0] == now:
            self._quarantine[-1][1].extend(waiting)
        else:
            self._quarantine.append((now, waiting))

    def named_by_a_state(self) -> None:
        """A state is being taken that names all places in use."""
        self._states += 1

    def state_dict(self) -> dict[str, Any]:
        """What waits: places, and how many checkpoints each has waited for."""
        now = self._written()
        waiting = [(place, now - then) for then, places in self._quarantine for place in places]
        return {"waiting": torch.tensor(waiting, dtype=torch.int64).reshape(-1, 2)}

    def load_state_dict(self, state: Mapping[str, Any], count: int, in_use: Indices) -> None:
        """Of a file with `count` places, of which some are in use and all of these were named."""
        self.clear()
        self.count, now = count, self._written()
        waiting = state["waiting"].cpu().numpy()
        self._filled_after = np.full(count, -1, np.int64)
        taken = np.zeros(count, np.bool_)
        taken[in_use] = True
        inside = waiting[waiting[:, 0] < count]
        taken[inside[:, 0]] = True
        for waited in sorted(set(inside[:, 1].tolist()), reverse=True):
            places = inside[inside[:, 1] == waited, 0].tolist()
            self._quarantine.append((now - waited, places))
        self._free = np.flatnonzero(~taken)[::-1].tolist()
