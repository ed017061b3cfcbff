"""A sum of quadratics is one quadratic: many anchors in the memory of one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def add_quadratic(
    importance: Sequence[Tensor],
    anchor: Sequence[Tensor],
    further: Sequence[Tensor],
    weights: Sequence[Tensor],
) -> Tensor:
    """Turn F, a in place into those of sum F (x - a)^2 + sum G (x - w)^2, up to a constant.

        F' = F + G,   a' = a + G / F' (w - a),   constant = sum F G / F' (w - a)^2

    Exact, and as stable as a running mean: nothing large is subtracted. Where both importances are
    zero the anchor becomes w.

    Args:
        importance: F, all 0 or more; becomes F'.
        anchor: a; becomes a'.
        further: G, all 0 or more; not changed.
        weights: w; not changed. All four are lists of tensors of the same shapes.

    Returns:
        The constant, 0-dim, 0 or more.

    Example:
        >>> importance, anchor = [torch.tensor([1.0])], [torch.tensor([0.0])]
        >>> add_quadratic(importance, anchor, [torch.tensor([3.0])], [torch.tensor([2.0])])
        tensor(3.)
        >>> importance, anchor
        ([tensor([4.])], [tensor([1.5000])])
    """
    constants = []
    for total, mean, new, weight in zip(importance, anchor, further, weights, strict=True):
        old = total.clone()
        total.add_(new)
        share = torch.where(total > 0, new / total, 1.0)
        moved = weight - mean
        mean.addcmul_(share, moved)
        constants.append((old.mul_(share).mul_(moved).mul_(moved)).sum())
    return torch.stack(constants).sum()
