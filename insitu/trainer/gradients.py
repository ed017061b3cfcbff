"""The length of a gradient, and clipping by it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

#: keeps the division finite when every gradient is zero (as in torch.nn.utils.clip_grad_norm_)
_EPSILON = 1e-6


@torch.no_grad()
def gradient_norm(gradients: Sequence[Tensor]) -> Tensor:
    """L2 norm over all gradients, 0-dim, on their device; a zero without gradients.

    Half the cost of `torch.nn.utils.get_total_norm`, which first groups by device and dtype; here
    all gradients lie on one device. Not finite when any element is not, or when the squares
    overflow (a norm above 1.8e19 in float32, which no run recovers from either).

    Example:
        >>> gradient_norm([torch.tensor([3.0]), torch.tensor([[4.0]])])
        tensor(5.)
    """
    if not gradients:
        return torch.zeros(())
    norms = torch._foreach_norm(list(gradients))
    norm: Tensor = torch.linalg.vector_norm(torch.stack(norms), dtype=torch.float32)
    return norm


@torch.no_grad()
def clip(gradients: Sequence[Tensor], norm: Tensor, largest_norm: float) -> None:
    """Scale all gradients in place so that their norm is at most `largest_norm`.

    Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks" (2013),
    section 3.2. The factor stays on the device: nothing waits.
    """
    factor = (largest_norm / (norm + _EPSILON)).clamp_(max=1.0)
    torch._foreach_mul_(list(gradients), factor)
