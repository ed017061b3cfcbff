"""What was trained, read from what `plugins/chaos_seen.py` wrote: only what is in the weights.

A life that ends without a checkpoint takes its steps with it: the next one resumes at an older
step, and from there on other lines count. What the voided steps had trained is kept for the
comparison: with a fixed pace and a log the same rows must come again in the same steps.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Seen:
    """The steps whose effect is in the newest weights, and what else there was."""

    steps: dict[int, tuple[int, ...]] = field(default_factory=dict)  # step -> sample ids
    repeated: int = 0  # steps that were trained again after a resume, with the same rows
    changed: int = 0  # with other rows
    lives: int = 0

    @property
    def order(self) -> list[int]:
        """All sample ids in the order in which they were trained."""
        return [sample for step in sorted(self.steps) for sample in self.steps[step]]

    def counts(self) -> Counter[int]:
        """Sample id -> how often it is in the weights."""
        return Counter(self.order)

    @classmethod
    def read(cls, path: Path) -> Seen:
        """All lives so far; a service that never began leaves no file."""
        seen = cls()
        before: dict[int, tuple[int, ...]] = {}
        voided: dict[int, tuple[int, ...]] = {}
        for line in path.read_text().splitlines() if path.exists() else []:
            first, *rest = line.split()
            if first == "start":
                before, seen.steps = seen.steps, {}
                voided |= before
                seen.lives += 1
            elif first == "resume":
                seen.steps = {step: ids for step, ids in before.items() if step <= int(rest[0])}
                voided = {step: ids for step, ids in voided.items() if step > int(rest[0])}
            else:
                seen._trained(int(first), tuple(map(int, rest)), voided)
        return seen

    def _trained(self, step: int, ids: tuple[int, ...], voided: dict[int, tuple[int, ...]]) -> None:
        self.steps[step] = ids
        before = voided.pop(step, None)
        self.repeated += before == ids
        self.changed += before is not None and before != ids
