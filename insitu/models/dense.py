"""A chain of linear layers between two sizes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from insitu.models.activations import ACTIVATIONS, Activation


def dense_chain(
    sizes: Sequence[int], activation: Activation, *, layer_norm: bool = False
) -> nn.Sequential:
    """Linear layers through `sizes`, the activation between them and not behind the last.

    With `layer_norm` every activation is preceded by a normalisation over the layer's units.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        if layers:
            if layer_norm:
                layers.append(nn.LayerNorm(inputs))
            layers.append(ACTIVATIONS[activation]())
        layers.append(nn.Linear(inputs, outputs))
    return nn.Sequential(*layers)
