"""What is in one or several memories, told by task, class, producer and age.

Counted when somebody asks, from the columns that are kept anyway: nothing of it costs a step. The
reader may be another thread than the writer; then a count may mix two neighbouring moments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from insitu.batch import Column
from insitu.sampling import Indices

#: which ages are told: the youngest, quarters, the oldest
QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Contents:
    """What is known of the samples of a memory, one row each.

    Args:
        provenance: (samples, len(Column)).
        offered_since: (samples,) samples that were offered to the memory since.
        classes: (samples,), or None where classes are not known.
    """

    provenance: npt.NDArray[np.int64]
    offered_since: Indices
    classes: Indices | None


@dataclass(frozen=True)
class Composition:
    """Samples of memories at one moment.

    Args:
        samples: how many.
        by_task, by_producer: index -> samples.
        by_class: class -> samples, of the memories whose classes are known.
        age_seconds: quantile -> seconds since the producer pushed, for `QUANTILES`; empty without
            samples.
        age_samples: quantile -> samples that were offered to the memory since.
    """

    samples: int
    by_task: Mapping[int, int]
    by_producer: Mapping[int, int]
    by_class: Mapping[int, int]
    age_seconds: Mapping[float, float]
    age_samples: Mapping[float, float]


def composition(memories: Sequence[Contents], now_ns: int) -> Composition:
    """All of them together.

    Args:
        now_ns: the wall clock, nanoseconds since 1970.
    """
    rows = [np.zeros((0, len(Column)), np.int64), *(part.provenance for part in memories)]
    columns = np.concatenate(rows)
    classes = [part.classes for part in memories if part.classes is not None]
    since = np.concatenate([np.zeros(0), *(part.offered_since for part in memories)])
    return Composition(
        samples=len(columns),
        by_task=counted(columns[:, Column.TASK]),
        by_producer=counted(columns[:, Column.PRODUCER]),
        by_class=counted(np.concatenate(classes)) if classes else {},
        age_seconds=quantiles(_ages(columns[:, Column.PRODUCED_AT_NS], now_ns)),
        age_samples=quantiles(since),
    )


def _ages(produced_at_ns: npt.NDArray[np.int64], now_ns: int) -> npt.NDArray[np.float64]:
    """Seconds; none is negative, though the producer's clock be ahead of ours or set back."""
    ages: npt.NDArray[np.float64] = np.maximum(now_ns - produced_at_ns, 0) / 1e9
    return ages


def counted(numbers: Indices) -> dict[int, int]:
    """Number -> how often it is there.

    Example:
        >>> counted(np.array([3, 0, 3]))
        {0: 1, 3: 2}
    """
    if len(numbers) == 0:
        return {}
    if numbers.min() >= 0 and numbers.max() <= max(1024, len(numbers)):  # no sort needed
        counts = np.bincount(numbers)
        present = np.flatnonzero(counts)
        return dict(zip(present.tolist(), counts[present].tolist(), strict=True))
    present, counts = np.unique(numbers, return_counts=True)
    return dict(zip(present.tolist(), counts.tolist(), strict=True))


def quantiles(ages: npt.NDArray[np.float64]) -> dict[float, float]:
    """The nearest of the ages to each of `QUANTILES`; empty without any.

    Example:
        >>> quantiles(np.array([4.0, 1.0, 2.0]))[0.5]
        2.0
    """
    if len(ages) == 0:
        return {}
    found = np.quantile(ages, QUANTILES, method="nearest")
    return dict(zip(QUANTILES, found.tolist(), strict=True))
