"""Detectors against plain references written from the papers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chi2, kstest

from insitu.detection.adwin import Adwin
from insitu.detection.page_hinkley import PageHinkley
from insitu.detection.plateau import Plateau
from test_detection import make

Losses = NDArray[np.float64]


def stream(seed: int, quiet: int = 300, after: int = 100, height: float = 3.0) -> Losses:
    random = np.random.default_rng(seed)
    level = np.where(np.arange(quiet + after) < quiet, 1.0, height)
    drawn: Losses = level * random.gamma(20.0, 1 / 20.0, quiet + after)
    return drawn


# Page-Hinkley


def page_hinkley(
    losses: Losses, threshold: float, tolerance: float, clip: float, memory: int, warm_up: int
) -> int | None:
    """The test as the paper has it: the sum m, and its minimum M over the past; the first alarm."""
    z: list[float] = []
    counted: list[float] = []
    for step, x in enumerate(losses):
        mean, variance = weighted(counted, memory)
        seen = x
        if step >= warm_up:
            scale = max(math.sqrt(variance), 1e-3 * abs(mean))
            z.append(min((x - mean) / scale, clip) - tolerance)
            seen = mean + (z[-1] + tolerance) * scale
        counted.append(seen)
        sums = np.concatenate(([0.0], np.cumsum(z)))
        if len(z) and sums[-1] - sums.min() > threshold:
            return step
    return None


def weighted(values: list[float], memory: int) -> tuple[float, float]:
    """Mean and variance under the weights of an exponential mean, plain over the first values."""
    weights = np.zeros(len(values))
    for place in range(len(values)):
        share = 1.0 / min(place + 1, memory)
        weights[:place] *= 1.0 - share
        weights[place] = share
    if not values:
        return 0.0, 0.0
    mean = float(weights @ np.array(values))
    return mean, float(weights @ (np.array(values) - mean) ** 2)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("memory", "warm_up"), [(30, 10), (60, 20)])
def test_page_hinkley_is_the_papers(seed: int, memory: int, warm_up: int) -> None:
    losses = stream(seed, quiet=120, after=60, height=1.5)
    options = {"threshold": 8.0, "tolerance": 0.4, "clip": 2.5}
    expected = page_hinkley(losses, **options, memory=memory, warm_up=warm_up)
    detector = PageHinkley(
        threshold=8.0, tolerance=0.4, clip_deviations=2.5, memory_steps=memory,
        warm_up_steps=warm_up,
    )  # fmt: skip
    found = next((i for i, x in enumerate(losses) if detector.judge_loss(float(x))), None)
    assert expected is not None
    assert found == expected


def test_one_wild_batch_is_no_change() -> None:
    detector = PageHinkley()
    losses = stream(0, quiet=300, after=0)
    losses[150] = 1e6
    losses[220] = 1e9
    assert not any(detector.judge_loss(float(x)) for x in losses)


# ADWIN


def adwin_cuts(window: Losses, confidence: float, smallest: int, bound: float | None) -> bool:
    """Whether any cut of a window, each loss by itself, satisfies the condition of the paper."""
    n, variance = len(window), float(window.var())
    if n < max(2 * smallest, 3):
        return False
    log = math.log(2.0 * math.log(n) / confidence)
    spread = math.sqrt(variance) if bound is None else bound
    for cut in range(smallest, n - smallest + 1):
        inverse_m = 1.0 / cut + 1.0 / (n - cut)
        epsilon = math.sqrt(2.0 * inverse_m * variance * log) + 2 / 3 * inverse_m * spread * log
        if abs(window[cut:].mean() - window[:cut].mean()) > epsilon:
            return True
    return False


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("value_range", [None, 0.5])
@pytest.mark.parametrize("height", [1.6, 0.4])
def test_without_compression_adwin_is_the_papers(
    seed: int, value_range: float | None, height: float
) -> None:
    """So many buckets of size 1 that all cuts are tried: the window is the paper's."""
    detector = Adwin(confidence=0.002, buckets_per_size=10_000, value_range=value_range)
    losses = stream(seed, quiet=80, after=60, height=height)
    window, rises, cuts = np.zeros(0), [], 0
    for step, loss in enumerate(losses):
        window = np.append(window, loss)
        told = detector.judge_loss(float(loss))
        before = len(window)
        while adwin_cuts(window, 0.002, 5, value_range):
            window = window[1:]
        cuts += before - len(window)
        assert detector.window_steps == len(window)
        assert detector.metrics()["mean"] == pytest.approx(window.mean())
        if told:
            rises.append(step)
    assert cuts > 0
    assert bool(rises) == (height > 1.0), "a loss that falls is no change"
    assert all(step >= 80 for step in rises)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 400), st.integers(2, 6), st.integers(0, 99))
def test_buckets_hold_the_moments_of_the_window(steps: int, per_size: int, seed: int) -> None:
    """And at most so many of each size, which are powers of two that do not rise with time."""
    detector = Adwin(confidence=1e-300, buckets_per_size=per_size)
    losses = np.random.default_rng(seed).normal(size=steps)
    for loss in losses:
        assert not detector.judge_loss(float(loss))
    state = detector.state_dict()
    counts = state["counts"]
    assert sum(counts) == steps
    assert counts == sorted(counts, reverse=True)
    assert all(count & (count - 1) == 0 for count in counts)
    assert max(counts.count(size) for size in counts) <= per_size
    start = 0
    for count, total, squares in zip(counts, state["sums"], state["squares"], strict=True):
        part = losses[start : start + count]
        assert total == pytest.approx(part.sum())
        assert squares == pytest.approx(count * part.var(), abs=1e-9)
        start += count


def test_the_window_grows_as_the_logarithm_of_the_stream() -> None:
    detector = Adwin(confidence=1e-300)
    sizes = {}
    for step, loss in enumerate(np.random.default_rng(0).normal(size=4096), 1):
        detector.judge_loss(float(loss))
        sizes[step] = len(detector.state_dict()["counts"]) if step in (64, 512, 4096) else 0
    assert sizes[512] - sizes[64] <= 3 * 5
    assert sizes[4096] - sizes[512] <= 3 * 5
    assert sizes[4096] <= 5 * 12


# plateau


def test_a_plateau_is_told_after_the_peak_and_the_peak_at_once() -> None:
    random = np.random.default_rng(0)
    falling = 1.0 + 4.0 * 0.9 ** np.arange(100)
    losses = np.concatenate((np.ones(100), falling)) + random.normal(0, 0.05, 200)
    found = {}
    for at in ("peak", "plateau"):
        detector = Plateau(at=at)  # type: ignore[arg-type]
        found[at] = [i for i, x in enumerate(losses) if detector.judge_loss(float(x))]
    assert len(found["peak"]) == len(found["plateau"]) == 1
    assert 100 <= found["peak"][0] <= 110
    plateau = found["plateau"][0]
    assert found["peak"][0] + 10 <= plateau
    older, newer = losses[plateau - 9 : plateau - 4], losses[plateau - 4 : plateau + 1]
    assert abs(older.mean() - newer.mean()) < 0.5


# window divergence


def test_the_divergence_of_labels_is_pearsons_chi_square() -> None:
    """For independent labels: D over its multinomial expectation, by hand; and its distribution."""
    random = np.random.default_rng(0)
    detector = make("label_divergence", window_steps=5, reference_blocks=40, most_classes=2)
    labels = random.integers(0, 2, (5 * 41, 16))
    for row in labels:
        detector.judge(row.astype(np.float64))
    shares = np.stack([1 - labels.reshape(41, -1).mean(1), labels.reshape(41, -1).mean(1)], 1)
    reference, recent = shares[:-1], shares[-1]
    centre = reference.mean(0)
    between = ((reference - centre) ** 2).sum() / 39
    within = (1 - (centre**2).sum()) / 80
    expected = ((recent - centre) ** 2).sum() / ((1 + 1 / 40) * max(between, within))
    assert detector.metrics()["divergence"] == pytest.approx(expected)

    found = []
    for _ in range(150):
        detector.reset()
        for row in random.integers(0, 2, (5 * 41, 16)):
            detector.judge(row.astype(np.float64))
        found.append(detector.metrics()["divergence"])
    # the larger of two estimates of the scatter: a little below chi-square of 1 degree, never above
    assert kstest(found, chi2(1).cdf).pvalue > 1e-4
    assert 0.6 < np.mean(found) < 1.2
