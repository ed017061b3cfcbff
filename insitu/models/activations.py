"""The activations that an option may name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import nn

Activation = Literal["relu", "gelu", "silu", "tanh"]

ACTIVATIONS: Mapping[Activation, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}
