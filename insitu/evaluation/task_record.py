"""What is kept of one task's results for ever, so that figures stay exact in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass
class TaskRecord:
    """Results on one task; NaN where nothing was measured.

    Args:
        ends: how often the task ended.
        untrained: by a model that was never trained.
        before: in the row before the task's first end.
        learned: in the row of its last end.
        best: the best in any row before the newest one.
        newest: in the newest evaluation, row of the matrix or not.
        worst: the worst in any evaluation after the task's first end.
        drop: the largest loss between two evaluations in succession since its first end.
    """

    ends: int = 0
    untrained: float = math.nan
    before: float = math.nan
    learned: float = math.nan
    best: float = math.nan
    newest: float = math.nan
    worst: float = math.nan
    drop: float = math.nan

    def measured(self, result: float, sign: float) -> None:
        """Count a result; `sign` is 1 where higher is better, -1 where lower is."""
        if math.isnan(result):
            return
        if self.ends:
            self.worst = best_of(self.worst, result, -sign)
            if not math.isnan(self.newest):
                self.drop = best_of(self.drop, sign * (self.newest - result), 1.0)
        self.newest = result

    def state_dict(self) -> dict[str, Any]:
        """Numbers, and None for NaN."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {n: None if value != value else value for n, value in values.items()}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> TaskRecord:
        values: dict[str, Any] = {n: math.nan if v is None else v for n, v in state.items()}
        return cls(**values)


def best_of(one: float, other: float, sign: float) -> float:
    """The better of two results, NaN being none.

    Example:
        >>> best_of(math.nan, 0.5, 1.0), best_of(0.25, 0.5, 1.0), best_of(0.25, 0.5, -1.0)
        (0.5, 0.5, 0.25)
    """
    if math.isnan(one):
        return other
    return other if sign * (other - one) > 0 else one
