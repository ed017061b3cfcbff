"""First weights of a Hebbian layer, in the scales that the published rules start from."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

InitialWeights = Literal["normal", "uniform", "positive"]


def fill(
    weight: Tensor, kind: InitialWeights, radius: float, generator: torch.Generator | None
) -> None:
    """Draw the weights in place; a kernel's expected norm is about `radius` for all three.

    - `normal`: N(0, (radius / sqrt(fan_in))^2)
    - `uniform`: U(-a, a) with a = radius sqrt(3 / fan_in)
    - `positive`: U(0, a), for inputs that are never negative

    A norm far above 1 is where SoftHebb starts from: it comes down to 1 while a kernel learns.

    Args:
        weight: (kernels, *fan_in); its place decides the device, `generator` must be on it.
    """
    fan_in = math.prod(weight.shape[1:])
    with torch.no_grad():
        if kind == "normal":
            weight.normal_(0.0, radius / math.sqrt(fan_in), generator=generator)
            return
        bound = radius * math.sqrt(3.0 / fan_in)
        weight.uniform_(-bound if kind == "uniform" else 0.0, bound, generator=generator)
