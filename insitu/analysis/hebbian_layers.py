"""How the kernels of Hebbian layers stand: norms, learning rates, how many have converged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from insitu.layers.hebbian import HebbianLayer

#: shares of the kernels at which norms and rates are told
QUANTILES = (0.0, 0.5, 1.0)
#: how far from 1 the norm of a kernel may be that counts as converged
CONVERGED_WITHIN = 0.01


@dataclass(frozen=True)
class HebbianFigures:
    """One layer at one moment.

    Args:
        kernels: how many there are.
        converged: of them, with a norm within 1 % of 1.
        norms, learning_rates: quantile -> value over the kernels.
        updates: that the layer has had.
        plastic: whether it learns.
    """

    kernels: int
    converged: int
    norms: Mapping[float, float]
    learning_rates: Mapping[float, float]
    updates: int
    plastic: bool


def hebbian_figures(module: nn.Module) -> dict[str, HebbianFigures]:
    """Every Hebbian layer by its name in the module; waits for the device.

    Example:
        >>> from insitu.layers.learning_rates import AdaptiveRates
        >>> from insitu.layers.linear import HebbianLinear
        >>> from insitu.layers.rules.softhebb import SoftHebb
        >>> net = nn.Sequential(HebbianLinear(3, 4, SoftHebb(), AdaptiveRates(0.1)))
        >>> figures = hebbian_figures(net)["0"]
        >>> figures.kernels, figures.updates, figures.plastic
        (4, 0, True)
    """
    layers = {n: part for n, part in module.named_modules() if isinstance(part, HebbianLayer)}
    return {name: _figures(layer) for name, layer in layers.items()}


def _figures(layer: HebbianLayer) -> HebbianFigures:
    norms, rates = layer.norms.detach().cpu(), layer.learning_rates_in_force.detach().cpu()
    return HebbianFigures(
        kernels=len(norms),
        converged=int(((norms - 1.0).abs() <= CONVERGED_WITHIN).sum()),
        norms=_quantiles(norms),
        learning_rates=_quantiles(rates),
        updates=int(layer.updates),
        plastic=layer.plastic,
    )


def _quantiles(values: Tensor) -> dict[float, float]:
    found = torch.quantile(values.double(), torch.tensor(QUANTILES, dtype=torch.float64))
    return dict(zip(QUANTILES, found.tolist(), strict=True))
