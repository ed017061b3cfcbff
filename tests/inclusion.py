"""Is everybody kept with the same probability? The chi-square test that can tell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import chi2


def inclusion_pvalue(counts: Sequence[int], held: int) -> float:
    """Of the hypothesis that each run keeps a uniform choice of `held` out of all.

    Counts of one run add up to `held`, so they vary less than independent ones: by p (1 - p) in
    place of p, and a little more for leaving one of them free. Without this finite-population
    correction, (n - 1) / (n (1 - p)), the statistic is too small by the factor 1 - p, and a memory
    that keeps most of what it sees passes whatever it prefers.

    Args:
        counts: in how many runs each sample was kept.
        held: samples that every run keeps.
    """
    observed = np.asarray(counts, np.float64)
    n, share = len(observed), held / len(observed)
    runs = observed.sum() / held
    expected = runs * share
    plain = np.square(observed - expected).sum() / expected
    return float(chi2.sf(plain * (n - 1) / (n * (1 - share)), n - 1))
