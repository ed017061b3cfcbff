"""Monotone rational-quadratic splines, forwards and backwards.

Durkan et al., "Neural spline flows" (2019), section 3.1 and appendix A.1 (after Gregory and
Delbourgo, 1982): on [-bound, bound] the line goes through knots, between which it is a quotient of
two quadratics with given slopes at the knots; beyond, it is the identity, which the slope of 1 at
both ends meets.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

#: the least share of a bin in width and height, and the least slope: keeps the inverse well posed
MINIMUM = 1e-3


def parameters_of(bins: int) -> int:
    """How many numbers describe one spline: widths, heights, inner slopes."""
    return 3 * bins - 1


class Bin(NamedTuple):
    """What the formulas need of the bin that a value lies in; each of the shape of the value."""

    left: Tensor
    width: Tensor
    bottom: Tensor
    height: Tensor
    slope_left: Tensor
    slope_right: Tensor


class Splines(NamedTuple):
    """Knots and slopes, each (..., bins + 1)."""

    across: Tensor
    up: Tensor
    slopes: Tensor
    bound: float

    @classmethod
    def of(cls, raw: Tensor, bound: float) -> Splines:
        """From unconstrained numbers (..., 3 bins - 1); zeros give the identity.

        Example:
            >>> spline = Splines.of(torch.zeros(1, 3 * 4 - 1), bound=2.0)
            >>> spline.across[0].tolist()
            [-2.0, -1.0, 0.0, 1.0, 2.0]
            >>> y, log_slope = forward(torch.tensor([0.7]), spline)
            >>> round(y.item(), 5), round(log_slope.abs().item(), 5)
            (0.7, 0.0)
        """
        bins = (raw.shape[-1] + 1) // 3
        widths, heights, slopes = torch.split(raw, [bins, bins, bins - 1], dim=-1)
        # a slope of 1 where the raw number is 0
        inner = MINIMUM + functional.softplus(slopes + math.log(math.expm1(1 - MINIMUM)))
        return cls(
            _knots(widths, bound),
            _knots(heights, bound),
            functional.pad(inner, (1, 1), value=1.0),
            bound,
        )

    def bin_of(self, values: Tensor, knots: Tensor) -> Bin:
        """The bins that values (...) lie in, by knots (..., bins + 1) of either axis."""
        index = (values.unsqueeze(-1) >= knots[..., 1:-1]).sum(dim=-1, keepdim=True)
        both = torch.cat((index, index + 1), dim=-1)
        left, right = self.across.gather(-1, both).unbind(-1)
        bottom, top = self.up.gather(-1, both).unbind(-1)
        slope_left, slope_right = self.slopes.gather(-1, both).unbind(-1)
        return Bin(left, right - left, bottom, top - bottom, slope_left, slope_right)


def _knots(raw: Tensor, bound: float) -> Tensor:
    bins = raw.shape[-1]
    shares = MINIMUM + (1 - MINIMUM * bins) * raw.softmax(dim=-1)
    inner = shares[..., :-1].cumsum(dim=-1)
    return (functional.pad(functional.pad(inner, (1, 0)), (0, 1), value=1.0) * 2 - 1) * bound


def forward(x: Tensor, splines: Splines) -> tuple[Tensor, Tensor]:
    """y (...) and log dy/dx (...) of x (...), one spline a value."""
    inside = x.abs() < splines.bound
    b = splines.bin_of(x.clamp(-splines.bound, splines.bound), splines.across)
    along = (torch.where(inside, x, b.left) - b.left) / b.width
    y = b.bottom + b.height * _risen(b, along)
    log_slope = _log_slope(b, along)
    return torch.where(inside, y, x), torch.where(inside, log_slope, 0.0)


def inverse(y: Tensor, splines: Splines) -> Tensor:
    """x (...) of y (...); eqs. 6 to 8 of the paper, in the form that does not cancel."""
    inside = y.abs() < splines.bound
    b = splines.bin_of(y.clamp(-splines.bound, splines.bound), splines.up)
    steepness = b.height / b.width
    risen = torch.where(inside, y, b.bottom) - b.bottom
    curve = risen * (b.slope_left + b.slope_right - 2 * steepness)
    a = b.height * (steepness - b.slope_left) + curve
    middle = b.height * b.slope_left - curve
    c = -steepness * risen
    root = (middle.square() - 4 * a * c).clamp_min(0).sqrt()
    x = b.left + b.width * (2 * c / (-middle - root))
    return torch.where(inside, x, y)


def _risen(b: Bin, along: Tensor) -> Tensor:
    """The share of the bin's height that is reached at a share of its width; eq. 4."""
    steepness, both = b.height / b.width, along * (1 - along)
    top = steepness * along.square() + b.slope_left * both
    return top / (steepness + (b.slope_left + b.slope_right - 2 * steepness) * both)


def _log_slope(b: Bin, along: Tensor) -> Tensor:
    """log dy/dx; eq. 5."""
    steepness, rest = b.height / b.width, 1 - along
    both = along * rest
    top = b.slope_right * along.square() + 2 * steepness * both + b.slope_left * rest.square()
    bottom = steepness + (b.slope_left + b.slope_right - 2 * steepness) * both
    return 2 * steepness.log() + top.log() - 2 * bottom.log()
