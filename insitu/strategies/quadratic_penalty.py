"""A spring on every weight, as a few calls over all parameters at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _QuadraticPenalty(torch.autograd.Function):
    """Both passes by hand: autograd would record five operations for every parameter."""

    @staticmethod
    def forward(
        ctx: Any,
        strength: float,
        importance: Sequence[Tensor],
        anchor: Sequence[Tensor],
        *weights: Tensor,
    ) -> Tensor:
        moved = torch._foreach_sub(weights, anchor)  # type: ignore[arg-type]
        pull = torch._foreach_mul(moved, importance)  # type: ignore[arg-type]
        ctx.save_for_backward(*pull)
        ctx.strength = strength
        # all terms are 0 or more, so their sum is their L1 norm, one call for all parameters
        sums = torch._foreach_norm(torch._foreach_mul(moved, pull), 1)
        return torch.stack(sums).sum() * (0.5 * strength)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, None, *torch._foreach_mul(ctx.saved_tensors, gradient * ctx.strength)


def quadratic_penalty(
    strength: float,
    importance: Sequence[Tensor],
    anchor: Sequence[Tensor],
    weights: Sequence[Tensor],
) -> Tensor:
    """strength / 2 * sum_i F_i (w_i - a_i)^2 over all elements of all parameters: 0-dim.

    Args:
        strength: 0 or more.
        importance: F, all 0 or more; not differentiated.
        anchor: a; not differentiated.
        weights: w. All three are lists of tensors of the same shapes.

    Example:
        >>> w = torch.tensor([3.0, 1.0], requires_grad=True)
        >>> penalty = quadratic_penalty(2.0, [torch.tensor([1.0, 5.0])], [torch.ones(2)], [w])
        >>> penalty.backward()
        >>> penalty.item(), w.grad
        (4.0, tensor([4., 0.]))
    """
    penalty: Tensor = _QuadraticPenalty.apply(strength, importance, anchor, *weights)  # type: ignore[no-untyped-call]
    return penalty
