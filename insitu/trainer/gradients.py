"""The length of a gradient, and clipping by it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

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


def witnesses(module: nn.Module) -> list[nn.Parameter]:
    """The smallest trainable parameter of each submodule that has any, mostly its bias.

    What is not finite in a backward pass gets into the gradient of the bias of every layer that
    it passes, since that is a sum over it. Looking at these few numbers costs nothing, where a
    norm over all gradients reads as many bytes as the update does (5 % of a step of 5 ms). They
    miss what overflows only inside the gradient of a large weight; the full norm, which is taken
    now and then, and the next loss do not.

    Example:
        >>> [tuple(w.shape) for w in witnesses(nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 2)))]
        [(8,), (2,)]
    """
    found = []
    for part in module.modules():
        own = [p for p in part.parameters(recurse=False) if p.requires_grad]
        if own:
            found.append(min(own, key=lambda parameter: parameter.numel()))
    return found


@torch.no_grad()
def clip(gradients: Sequence[Tensor], norm: Tensor, largest_norm: float) -> None:
    """Scale all gradients in place so that their norm is at most `largest_norm`.

    Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks" (2013),
    section 3.2. The factor stays on the device: nothing waits.
    """
    factor = (largest_norm / (norm + _EPSILON)).clamp_(max=1.0)
    torch._foreach_mul_(list(gradients), factor)
