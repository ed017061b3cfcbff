"""What was trained, read from what `plugins/chaos_seen.py` writes: only what is in the weights.

A life that ends without a checkpoint takes its steps with it: the next one resumes at an older
step, and from there on other lines count. What the voided steps had trained is kept for the
comparison: with a fixed pace and a log the same rows must come again in the same steps.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from insitu.wire.rows import Array

Steps = dict[int, tuple[int, ...]]  # step -> sample ids


class Seen:
    """Follows the file of a service's lives.

    Args:
        path: of the file; a service that never began leaves none.
    """

    def __init__(self, path: Path) -> None:
        self.steps: Steps = {}  # whose effect is in the newest weights
        self.repeated = 0  # steps that were trained again after a resume, with the same rows
        self.changed = 0  # with other rows
        self.lives = 0
        self._path = path
        self._read_bytes = 0
        self._before: Steps = {}  # of the life before, until it is known what is resumed
        self._voided: Steps = {}

    def follow(self) -> Seen:
        """Read what was written since."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._read_bytes)
                whole = file.read().rpartition(b"\n")[0]
            self._read_bytes += len(whole) + bool(whole)
            for line in whole.decode().splitlines():
                self._line(*line.split())
        return self

    @property
    def order(self) -> Array:
        """All sample ids in the order in which they were trained, int64."""
        rows = (self.steps[step] for step in sorted(self.steps))
        return np.fromiter(itertools.chain.from_iterable(rows), np.int64)

    def _line(self, first: str, *rest: str) -> None:
        if first == "start":
            # without steps: it was killed before it resumed or trained, and changed nothing
            if self.steps:
                self._before, self.steps = self.steps, {}
            self._voided |= self._before
            self.lives += 1
        elif first == "resume":
            last = int(rest[0])
            self.steps = {step: ids for step, ids in self._before.items() if step <= last}
            self._voided = {step: ids for step, ids in self._voided.items() if step > last}
        else:
            self._trained(int(first), tuple(map(int, rest)))

    def _trained(self, step: int, ids: tuple[int, ...]) -> None:
        self.steps[step] = ids
        before = self._voided.pop(step, None)
        self.repeated += before == ids
        self.changed += before is not None and before != ids
