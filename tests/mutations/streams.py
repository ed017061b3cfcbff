"""What makes a stream a test of forgetting, taken out."""

from __future__ import annotations

import numpy as np

from insitu_producers.images.labelled import LabelledImages
from mutations.base import Mutation, constantly

_SCENARIOS = "tests/test_sources_scenarios.py"


def _nothing_held_out(
    self: LabelledImages, ratio: float, generator: np.random.Generator
) -> LabelledImages:
    return self


MUTATIONS = {
    "images: nothing is held out": Mutation(
        "insitu_producers.images.labelled:LabelledImages.with_held_out",
        _nothing_held_out,
        "tests/test_sources_images.py",
    ),
    "blurry: no image strays": Mutation(
        "insitu_producers.scenarios.blurry:_places",
        lambda labels, home, *_: home[labels],
        _SCENARIOS,
    ),
    "permuted: pixels stay in order": Mutation(
        "insitu_producers.scenarios.permuted:permutation",
        constantly(lambda images: images),
        _SCENARIOS,
    ),
    "rotated: images stay upright": Mutation(
        "insitu_producers.scenarios.rotated:rotation",
        constantly(lambda images: images),
        _SCENARIOS,
    ),
    "shifted: images stay in place": Mutation(
        "insitu_producers.scenarios.shifted:shift",
        constantly(lambda images: images),
        _SCENARIOS,
    ),
    "domain incremental: labels stay those of the set": Mutation(
        "insitu_producers.scenarios.domain_incremental:places_of",
        constantly(lambda labels: labels),
        _SCENARIOS,
    ),
    "eight Gaussians: they stand still": Mutation(
        "insitu_producers.sources.eight_gaussians:centres_at",
        constantly(np.ones((8, 2))),
        "tests/test_sources_drift.py",
    ),
}
