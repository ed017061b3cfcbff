"""How far the newest rows are from those before, on the scale of how rows scatter anyhow.

Rows are mapped to feature vectors phi of one fixed norm c. The newest `window_steps` steps are the
recent window; the steps before it are cut into blocks of the same length, the reference. With the
mean b_j of block j out of m, their mean b, and the mean r of the recent window,

    D = ||r - b||^2                          divergence: the squared MMD of the kernel phi . phi'
    E = (1 + 1 / m) max(V_blocks, V_rows)    its expectation while nothing changes
    V_blocks = sum_j ||b_j - b||^2 / (m - 1)
    V_rows = (c - ||b||^2) / rows of a window
    a change when   D / E > threshold

D / E is a pseudo-F statistic (Anderson, "A new method for non-parametric multivariate analysis of
variance", 2001) with the two windows of the maximum mean discrepancy (Gretton et al., "A kernel
two-sample test", 2012). The reference gives its own threshold: V_blocks holds what rows that follow
each other have in common, which a test for independent rows would take for a change, and V_rows is
the scatter of independent rows, below which a few blocks can fall by chance.

The windows slide with the stream, so a change that is slower than the reference is long goes
unseen.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from insitu.detection.base import Detector
from insitu.detection.late_reading import Values

Threshold = Annotated[
    float,
    Field(
        gt=1.0,
        description="a change when the divergence is larger; 1 is what chance gives",
        json_schema_extra={"unit": "ratio"},
    ),
]
WindowSteps = Annotated[
    int,
    Field(
        ge=1,
        description="steps of the recent window, and of each block before it",
        json_schema_extra={"unit": "steps"},
    ),
]
ReferenceBlocks = Annotated[
    int,
    Field(
        ge=2,
        description="blocks that the recent window is compared with, at most; 4 or all of them "
        "must be there before a change is told",
        json_schema_extra={"unit": "blocks"},
    ),
]
MostRows = Annotated[
    int,
    Field(
        ge=1,
        description="rows of a step that are looked at",
        json_schema_extra={"unit": "rows"},
    ),
]


class WindowDivergence(Detector):
    """Base of detectors on features of rows.

    Args:
        features: numbers in a row's vector.
        squared_norm: of every row's vector (c above).
        window_steps: steps of the recent window and of each block.
        least_blocks, most_blocks: of the reference, before it says anything and at most.
        threshold: a change when D / E is larger.
    """

    figures: ClassVar[Mapping[str, str]] = {
        "divergence": "ratio: newest window against the reference; about 1 while nothing changes",
    }

    def __init__(
        self,
        *,
        features: int,
        squared_norm: float,
        window_steps: int,
        least_blocks: int,
        most_blocks: int,
        threshold: float,
    ) -> None:
        super().__init__()
        self._features = features
        self._squared_norm = squared_norm
        self._window_steps = window_steps
        self._least_blocks = least_blocks
        self._threshold = threshold
        length = (max(most_blocks, least_blocks) + 1) * window_steps
        #: mean features and rows of the newest steps, a ring
        self._means = np.zeros((length, features))
        self._rows = np.zeros(length)
        self.restart()

    @abstractmethod
    def features_of(self, values: Values) -> Values:
        """(rows, features) vectors of the rows that were measured."""

    def judge(self, values: Values) -> bool:
        features = self.features_of(values)
        if len(features) == 0:
            return False
        place = self._steps % len(self._means)
        self._means[place] = features.mean(0)
        self._rows[place] = len(features)
        self._steps += 1
        blocks = min(self._steps, len(self._means)) // self._window_steps
        if blocks < self._least_blocks + 1:
            return False
        self._divergence = self._ratio(blocks)
        return self._divergence > self._threshold

    def _ratio(self, blocks: int) -> float:
        """D / E of the newest `blocks` windows, the last of which is the recent one."""
        steps = blocks * self._window_steps
        newest = np.arange(self._steps - steps, self._steps) % len(self._means)
        weights = self._rows[newest].reshape(blocks, self._window_steps, 1)
        means = self._means[newest].reshape(blocks, self._window_steps, -1)
        rows = weights.sum(1)
        means = (means * weights).sum(1) / rows
        reference, recent = means[:-1], means[-1]
        centre = reference.mean(0)
        between = float(((reference - centre) ** 2).sum()) / (blocks - 2)
        within = max(self._squared_norm - float((centre**2).sum()), 0.0) / float(rows.mean())
        expected = (1.0 + 1.0 / (blocks - 1)) * max(
            between, within, self._least(float(rows.mean()))
        )
        return float(((recent - centre) ** 2).sum()) / expected

    def _least(self, rows: float) -> float:
        """Where all rows were alike: as if one row and a half in them had been another."""
        share = 1.5 / (rows + 3.0)
        return self._squared_norm * 2.0 * share * (1.0 - share) / rows

    def restart(self) -> None:
        self._steps = 0
        self._divergence = 0.0

    def metrics(self) -> Mapping[str, float]:
        return {"divergence": self._divergence}

    def history(self) -> dict[str, Any]:
        kept = min(self._steps, len(self._means))
        newest = np.arange(self._steps - kept, self._steps) % len(self._means)
        return {
            "steps": self._steps,
            "divergence": self._divergence,
            "means": _saved(self._means[newest]),
            "rows": _saved(self._rows[newest]),
        }

    def load_history(self, history: Mapping[str, Any]) -> None:
        self._steps = int(history["steps"])
        self._divergence = float(history["divergence"])
        kept = len(history["rows"])
        places = np.arange(self._steps - kept, self._steps) % len(self._means)
        self._means[places] = history["means"].numpy().reshape(kept, self._features)
        self._rows[places] = history["rows"].numpy()


def _saved(array: Values) -> torch.Tensor:
    """Flat; an empty array of numpy would become a tensor that cannot be viewed as bytes."""
    return torch.tensor(array.ravel()) if array.size else torch.empty(0, dtype=torch.float64)
