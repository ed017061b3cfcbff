"""Detection: what is essential to detectors and segments, taken out."""

from __future__ import annotations

from typing import Any

import numpy as np

from mutations.base import Mutation, constantly

_CONTRACT = "tests/test_detection.py"
_PARITY = "tests/test_detection_parity.py"
_SEGMENTS = "tests/test_segments.py"


def _multinomial_alone(self: Any, blocks: int) -> float:
    """D over a scatter that is always 1: not on the scale of the reference."""
    return float(np.linalg.norm(self._means[0] - self._means[-1]))


MUTATIONS = {
    "page_hinkley: nothing is counted": Mutation(
        "insitu.detection.page_hinkley:PageHinkley._count", constantly(None), _PARITY
    ),
    "page_hinkley: never above the threshold": Mutation(
        "insitu.detection.page_hinkley:PageHinkley.judge_loss", constantly(False), _PARITY
    ),
    "adwin: no cut is found": Mutation(
        "insitu.detection.adwin:Adwin._cut", constantly(0.0), _PARITY
    ),
    "adwin: buckets are not joined": Mutation(
        "insitu.detection.adwin:Adwin._compress", constantly(None), _PARITY
    ),
    "plateau: every window is a peak": Mutation(
        "insitu.detection.plateau:Plateau._is_peak", constantly(True), _CONTRACT
    ),
    "feature_divergence: features do not depend on the rows": Mutation(
        "insitu.detection.feature_divergence:FeatureDivergence.features_of",
        lambda self, values: np.ones((len(values), self._features)),
        _CONTRACT,
    ),
    "label_divergence: all labels are one": Mutation(
        "insitu.detection.label_divergence:LabelDivergence.features_of",
        lambda self, values: np.eye(1, self._features).repeat(len(values), 0),
        _CONTRACT,
    ),
    "winner_divergence: everybody wins alike": Mutation(
        "insitu.detection.winner_divergence:WinnerDivergence.features_of",
        lambda self, values: np.ones_like(values),
        "tests/test_detection_winners.py",
    ),
    "window divergence: without the scale of the reference": Mutation(
        "insitu.detection.window_divergence:WindowDivergence._ratio", _multinomial_alone, _PARITY
    ),
    "detector: does not start anew": Mutation(
        "insitu.detection.base:Detector.reset", constantly(None), _CONTRACT
    ),
    "segments: tasks stay as they are": Mutation(
        "insitu.segments:Segments.relabel", lambda self, batch: batch, _SEGMENTS
    ),
    "watch: boundaries are never declared": Mutation(
        "insitu.detection.watch:DriftWatch.update", constantly(()), _SEGMENTS
    ),
}
