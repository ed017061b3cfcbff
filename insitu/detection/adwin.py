"""ADWIN: a window over the loss that is cut where its two parts differ.

Bifet and Gavalda, "Learning from time-changing data with adaptive windowing" (2007), algorithm
ADWIN2. The window W of n losses is cut into an older part W0 and a newer W1 wherever their means
differ by more than

    eps = sqrt(2 / m  var(W)  ln(2 / d))  +  2 / (3 m)  R  ln(2 / d)
    1 / m = 1 / n0 + 1 / n1,     d = confidence / ln(n)

R is the range of the values, which the paper takes as 1. The window is kept as an exponential
histogram: buckets of 1, 2, 4, ... losses, at most `buckets_per_size` of each size, so that it takes
O(log n) memory and O(log n) time a step, and cuts lie between buckets. Of each bucket its sum and
its sum of squared distances from its mean are kept; when one too many of a size are there, the two
oldest become one (Chan et al., 1979). While a cut is found the oldest bucket goes.

Deviations: losses are not bounded by 1. R is the deviation of the window, since the mean of a
batch is near a normal variable, for which the first term is the whole bound; a bound that holds for
any bounded loss is had by `value_range`, the largest loss minus the smallest, and comes too late
for a model that learns quickly. A cut where the newer mean is the lower one shrinks the window and
is no change: a model that learns does that all the time. After a change the window begins anew,
without W1. Every cut is tried at every step, as in the paper.

Costs: some twenty comparisons a step; a few kilobytes at most.

Use it when: changes may be slow as well as sudden, and a bound on false alarms is wanted. It keeps
as long a memory as the stream allows, and needs no scale.

Measured: with the defaults, of 15 switches on digits (images changed, classes changed) and on a
reaction-diffusion simulation 14 were found, the latest after 8 steps; no false alarm in 34,500
steps. With two other seeds 13 and 14, the latest after 7, and 2 false alarms in all. With every
seed that switch of the simulation was missed (waves to holes) which leaves the mean loss where it
was, so that the loss does not tell of it. `insitu bench detection` measures it again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from insitu.detection.mean_loss import LossDetector

#: of a bucket: losses in it, their sum, and their sum of squared distances from its mean
Bucket = tuple[int, float, float]


class Adwin(LossDetector):
    """Cuts its window of losses where two parts of it have different means.

    Example:
        >>> detector = Adwin()
        >>> before = [detector.judge_loss(1.0 + 0.1 * (step % 3)) for step in range(100)]
        >>> after = [detector.judge_loss(3.0) for _ in range(40)]
        >>> any(before), any(after)
        (False, True)
    """

    name = "adwin"
    figures: ClassVar[Mapping[str, str]] = {
        "window_steps": "steps: length of the window",
        "mean": "as the loss: its mean over the window",
    }

    def __init__(
        self,
        *,
        confidence: Annotated[
            float,
            Field(
                gt=0.0,
                lt=1.0,
                description="bound on the probability of a false cut (delta); smaller is later "
                "and surer",
                json_schema_extra={"unit": "ratio"},
            ),
        ] = 1e-4,
        buckets_per_size: Annotated[
            int,
            Field(
                ge=2,
                description="buckets of each size (M); more are finer cuts",
                json_schema_extra={"unit": "buckets"},
            ),
        ] = 5,
        smallest_part_steps: Annotated[
            int,
            Field(
                ge=1,
                description="steps on either side of a cut, at least",
                json_schema_extra={"unit": "steps"},
            ),
        ] = 5,
        value_range: Annotated[
            float | None,
            Field(
                gt=0.0,
                description="largest loss minus smallest (R); null: the window's deviation",
                json_schema_extra={"unit": "as the loss"},
            ),
        ] = None,
    ) -> None:
        super().__init__()
        self._confidence = confidence
        self._buckets_per_size = buckets_per_size
        self._smallest_part_steps = smallest_part_steps
        self._value_range = value_range
        self.restart()

    def judge_loss(self, loss: float) -> bool:
        self._buckets.append((1, loss, 0.0))
        self._compress()
        return self._shrink()

    def _compress(self) -> None:
        """Where one too many of a size are there, join the two oldest; oldest buckets first."""
        size, end = 1, len(self._buckets)
        while True:
            start = end
            while start > 0 and self._buckets[start - 1][0] == size:
                start -= 1
            if end - start <= self._buckets_per_size:
                return
            self._buckets[start : start + 2] = [_joined(*self._buckets[start : start + 2])]
            size, end = 2 * size, start + 1

    def _shrink(self) -> bool:
        """Drop old buckets while a cut is found; whether the newer part of one was the higher."""
        risen = False
        while len(self._buckets) > 1:
            gap = self._cut()
            if gap == 0.0:
                break
            risen = risen or gap > 0.0
            del self._buckets[0]
        return risen

    def _cut(self) -> float:
        """Newer mean minus older at the first cut that holds, from the oldest on; 0 for none."""
        counts, sums, squares = np.array(self._buckets, dtype=np.float64).T
        n, total = counts.sum(), sums.sum()
        if n < 2 * self._smallest_part_steps or n < 3:  # ln(n) above 1
            return 0.0
        n0, older = np.cumsum(counts)[:-1], np.cumsum(sums)[:-1]
        n1 = n - n0
        gaps = (total - older) / n1 - older / n0
        between = float((counts * (sums / counts - total / n) ** 2).sum())
        variance = (float(squares.sum()) + between) / n
        inverse_m = 1.0 / n0 + 1.0 / n1
        log = math.log(2.0 * math.log(n) / self._confidence)
        bound = np.sqrt(2.0 * inverse_m * variance * log)
        bound += 2.0 / 3.0 * inverse_m * (self._value_range or math.sqrt(variance)) * log
        wide = np.minimum(n0, n1) >= self._smallest_part_steps
        found = np.flatnonzero((np.abs(gaps) > bound) & wide)
        return float(gaps[found[0]]) if len(found) else 0.0

    @property
    def window_steps(self) -> int:
        """Losses in the window."""
        return sum(bucket[0] for bucket in self._buckets)

    def restart(self) -> None:
        self._buckets: list[Bucket] = []  # the oldest first

    def metrics(self) -> Mapping[str, float]:
        buckets = list(self._buckets)
        steps = sum(bucket[0] for bucket in buckets)
        total = sum(bucket[1] for bucket in buckets)
        return {"window_steps": float(steps), "mean": total / steps if steps else 0.0}

    def history(self) -> dict[str, Any]:
        return {
            "counts": [count for count, _, _ in self._buckets],
            "sums": [total for _, total, _ in self._buckets],
            "squares": [squares for _, _, squares in self._buckets],
        }

    def load_history(self, history: Mapping[str, Any]) -> None:
        columns = (history[name] for name in ("counts", "sums", "squares"))
        self._buckets = [(int(n), float(s), float(q)) for n, s, q in zip(*columns, strict=True)]


def _joined(one: Bucket, other: Bucket) -> Bucket:
    """Two buckets as one (Chan, Golub and LeVeque, 1979)."""
    (n0, s0, q0), (n1, s1, q1) = one, other
    apart = s1 / n1 - s0 / n0
    return n0 + n1, s0 + s1, q0 + q1 + apart * apart * n0 * n1 / (n0 + n1)


COMPONENT = Adwin
