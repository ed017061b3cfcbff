"""The gradient nearest to one that has at least a given product with a reference: one constraint.

The quadratic programme of `insitu.strategies.quadratic_programme` with one unknown, in closed form:

    x = g + v r,    v = max(0, floor - <g, r>) / <r, r>

With floor 0 this is eq. 11 of Chaudhry et al., "Efficient Lifelong Learning with A-GEM" (2019).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from insitu.strategies.gradient_stack import Per


def gradients_of(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """The parameters' `.grad`, made as zeros where the loss did not reach."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def products(one: Sequence[Tensor], other: Sequence[Tensor], per: Per) -> Tensor:
    """(1,) or (tensors,) float64: the products of two gradients."""
    dots = [torch.dot(a.reshape(-1), b.reshape(-1)) for a, b in zip(one, other, strict=True)]
    each = torch.stack(dots).to(torch.float64)
    return each.sum(0, keepdim=True) if per == "network" else each


@torch.no_grad()
def project(
    gradients: Sequence[Tensor],
    reference: Sequence[Tensor],
    per: Per,
    *,
    floors: Tensor | None = None,
    squares: Tensor | None = None,
) -> Tensor:
    """Move gradients in place, as little as possible, until <g, r> >= floor.

    Args:
        gradients: g, one tensor a parameter.
        reference: r, likewise; overwritten. Where it is zero, g stays.
        per: whether all parameters are one vector, or each is one by itself.
        floors: as `products` gives them; None for 0.
        squares: the products of r with itself, where they are known.

    Returns:
        v, (1,) or (tensors,): how much of r was added.

    Example:
        >>> g = [torch.tensor([-1.0, 1.0])]
        >>> project(g, [torch.tensor([2.0, 0.0])], "network"), g
        (tensor([0.5000], dtype=torch.float64), [tensor([0., 1.])])
    """
    missing = -products(gradients, reference, per)
    if floors is not None:
        missing = missing + floors
    if missing.is_cpu and bool((missing <= 0).all()):  # where looking costs nothing
        return torch.zeros_like(missing)
    if squares is None:
        squares = products(reference, reference, per)
    amounts = torch.where(squares == 0, 0.0, missing.clamp(min=0.0) / squares)
    # what is not finite goes into every tensor, so that the trainer's guard sees it
    amounts = torch.where(amounts.isfinite().all(), amounts, torch.nan)
    _add(gradients, reference, amounts)
    return amounts


def _add(gradients: Sequence[Tensor], reference: Sequence[Tensor], amounts: Tensor) -> None:
    if amounts.is_cpu:
        factors = amounts.tolist()
        if len(factors) == 1:
            if factors[0] != 0.0:
                torch._foreach_add_(list(gradients), list(reference), alpha=factors[0])
            return
        for gradient, tensor, factor in zip(gradients, reference, factors, strict=True):
            if factor != 0.0:
                gradient.add_(tensor, alpha=factor)
        return
    if len(amounts) == 1:
        torch._foreach_mul_(list(reference), amounts[0])
    else:
        torch._foreach_mul_(list(reference), list(amounts.unbind()))
    torch._foreach_add_(list(gradients), list(reference))
