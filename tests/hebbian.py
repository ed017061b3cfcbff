"""Hebbian layers for tests, and the same mathematics once more: loops over patches, in float64."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from insitu.component import catalogue
from insitu.layers.convolution import (
    HebbianConv1d,
    HebbianConv2d,
    HebbianConv3d,
    HebbianConvolution,
)
from insitu.layers.hebbian import HebbianLayer
from insitu.layers.learning_rates import AdaptiveRates
from insitu.layers.linear import HebbianLinear
from insitu.layers.rules.base import Rule
from learning import generator

Array = npt.NDArray[np.float64]
CONVOLUTIONS: dict[int, type[HebbianConvolution]] = {
    1: HebbianConv1d,
    2: HebbianConv2d,
    3: HebbianConv3d,
}
#: rule -> the options it is tested with
RULES: dict[str, dict[str, Any]] = {
    "softhebb": {"inverse_temperature": 0.7},
    "soft": {"inverse_temperature": 0.7},
    "hard": {},
    "oja": {},
    "instar": {"inverse_temperature": 0.7},
    "krotov_hopfield": {"rank": 3, "delta": 0.3},
    "supervised_soft": {"inverse_temperature": 0.7, "contrast": 0.6},
}


def rule(name: str) -> Rule:
    made: Rule = catalogue("insitu.layers.rules")[name].build(RULES[name], {})
    return made


def layer(
    dimensions: int = 2,
    *,
    channels: int = 2,
    kernels: int = 5,
    by: str = "softhebb",
    seed: int = 0,
    size: int | Sequence[int] = 3,
    **options: Any,
) -> HebbianLayer:
    """A small layer; 0 dimensions are fully connected."""
    options = {"radius": 3.0, "generator": generator(seed), **options}
    parts = (rule(by), AdaptiveRates(0.1))
    if dimensions == 0:
        return HebbianLinear(channels, kernels, *parts, **options)
    return CONVOLUTIONS[dimensions](channels, kernels, size, *parts, **options)


def rows_for(layer: HebbianLayer, rows: int = 4, seed: int = 1, extent: int = 6) -> Tensor:
    """Input in the layer's dtype; the places of each dimension differ in number."""
    places = [extent + i for i in range(layer.weight.dim() - 2)]
    shape = (rows, layer.in_channels, *places)  # type: ignore[arg-type]
    return torch.randn(shape, generator=generator(seed)).to(layer.weight.dtype)


def reference_file(name: str) -> Path:
    """A file of the Hebbian reference vectors, or a skipped test."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    data = Path(os.environ.get("INSITU_TEST_DATA", beside))
    path = data / "hebbian_reference" / name
    if not path.is_file():
        pytest.skip(f"{path} is not there; set INSITU_TEST_DATA to the folder of the test data")
    return path


# --- the mathematics, from the papers


def patches(
    x: Array,
    size: Sequence[int],
    *,
    stride: Sequence[int],
    padding: Sequence[int],
    padding_mode: str,
    dilation: Sequence[int],
) -> Array:
    """(rows, places, channels, *size): what each kernel sees from each place, in order."""
    mode = {"reflect": "reflect", "circular": "wrap", "zeros": "constant"}[padding_mode]
    x = np.pad(x, [(0, 0), (0, 0), *((p, p) for p in padding)], mode=mode)  # type: ignore[call-overload]
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, size, strict=True)]
    starts = [
        range(0, extent - r + 1, s) for extent, r, s in zip(x.shape[2:], reach, stride, strict=True)
    ]
    cut = [
        x[(..., *(slice(a, a + r, d) for a, r, d in zip(place, reach, dilation, strict=True)))]
        for place in itertools.product(*starts)
    ]
    return np.stack(cut, axis=1)


def softmax(u: Sequence[float], t: float) -> list[float]:
    shares = [math.exp(t * (value - max(u))) for value in u]
    return [share / sum(shares) for share in shares]


def _softhebb(u: list[float], label: int) -> list[float]:
    s = softmax(u, 0.7)
    return [share if j == u.index(max(u)) else -share for j, share in enumerate(s)]


def _krotov_hopfield(u: list[float], label: int) -> list[float]:
    ranked = sorted(u, reverse=True)
    return [1.0 if value == ranked[0] else -0.3 if value == ranked[2] else 0.0 for value in u]


def _supervised_soft(u: list[float], label: int) -> list[float]:
    if not 0 <= label < len(u):
        return [0.0] * len(u)
    return [float(j == label) - 0.6 * share for j, share in enumerate(softmax(u, 0.7))]


#: rule -> y of all kernels at one place, from their potentials and the row's label
TERMS: dict[str, Callable[[list[float], int], list[float]]] = {
    "softhebb": _softhebb,
    "soft": lambda u, _: softmax(u, 0.7),
    "hard": lambda u, _: [float(value == max(u)) for value in u],
    "oja": lambda u, _: list(u),
    "instar": lambda u, _: softmax(u, 0.7),
    "krotov_hopfield": _krotov_hopfield,
    "supervised_soft": _supervised_soft,
}


def step(
    seen: Array, weight: Array, groups: int, name: str, labels: Sequence[int]
) -> tuple[Array, Array]:
    """Potentials (rows, places, kernels) and the normalised direction, one patch after the other.

    Args:
        seen: (rows, places, channels, *size) patches.
        weight: (kernels, channels / groups, *size).
    """
    kernels, share = weight.shape[:2]
    potentials = np.zeros((*seen.shape[:2], kernels))
    direction = np.zeros_like(weight)
    for row, place in np.ndindex(*seen.shape[:2]):
        views = [
            seen[row, place, (j * groups // kernels) * share :][:share] for j in range(kernels)
        ]
        u = [float((w * view).sum()) for w, view in zip(weight, views, strict=True)]
        potentials[row, place] = u
        for j, y in enumerate(TERMS[name](u, labels[row])):
            pull = {"instar": y, "supervised_soft": abs(y * u[j])}.get(name, y * u[j])
            direction[j] += y * views[j] - pull * weight[j]
    return potentials, direction / (np.abs(direction).max() + 1e-30)


def rates(weight: Array, eta: float = 0.1, power: float = 0.5) -> Array:
    norms = np.sqrt((weight.reshape(len(weight), -1) ** 2).sum(axis=1))
    return eta * (np.abs(norms - 1.0) + 1e-10) ** power
