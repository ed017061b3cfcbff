"""Who wins a patch."""

from __future__ import annotations

import torch
from torch import Tensor


def one_hot(potentials: Tensor) -> Tensor:
    """1 for the kernel with the largest potential at each place (the first of equals), else 0."""
    winner = potentials.argmax(dim=1, keepdim=True)
    return torch.zeros_like(potentials).scatter_(1, winner, 1.0)
