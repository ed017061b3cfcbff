"""The quadratic programme of gradient projection, exactly, over a Gram matrix.

The gradient x nearest to g with <x, r_k> >= floor_k for all references r_k is x = g + sum_k v_k r_k
with

    v = argmin 1/2 v'Gv + c'v  over v >= 0,    G_ij = <r_i, r_j>,  c_i = <g, r_i> - floor_i

the dual of Lopez-Paz and Ranzato, "Gradient Episodic Memory for Continual Learning" (2017), eq. 8
to 11. It has as many unknowns as there are references, however large the model is.

Two exact solvers. Up to `ENUMERATED` unknowns every set of active constraints is tried, all sets
and all problems at once, by sweeping a tableau: a fixed run of operations that never waits for the
device. Beyond, the active set of Lawson and Hanson, "Solving Least Squares Problems" (1974),
chapter 23, on the CPU; a GPU waits for that once. Nothing is added to the diagonal: a reference
that the others already span gets no multiplier, one of zero is ignored.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

#: the most unknowns for which all active sets are tried: 2^6 of them
ENUMERATED = 6
#: squared sine of the angle to what the others span, below which a reference adds nothing to them
_INDEPENDENT = 1e-13
#: violation that is rounding, of a problem scaled to entries of 1
_ROUNDING = 1e-12

Matrix = npt.NDArray[np.float64]


def solve(gram: Tensor, linear: Tensor) -> Tensor:
    """v >= 0 that minimises 1/2 v'Gv + c'v, for every problem of a batch.

    Args:
        gram: G, (problems, k, k), float64, symmetric, positive semidefinite.
        linear: c, (problems, k), float64, c = R g for some g where G = R R'.

    Returns:
        (problems, k), on their device; not finite where a problem is not.

    Example:
        >>> gram, linear = torch.eye(2).double()[None], torch.tensor([[-3.0, 1.0]]).double()
        >>> solve(gram, linear)
        tensor([[3., 0.]], dtype=torch.float64)
    """
    lengths = gram.diagonal(dim1=-2, dim2=-1).sqrt()
    used = lengths != 0  # what is not a number goes on
    lengths = torch.where(used, lengths, 1.0)
    unit = gram / (lengths.unsqueeze(-1) * lengths.unsqueeze(-2))
    slopes = torch.where(used, linear / lengths, 0.0)
    scale = slopes.abs().amax(-1, keepdim=True)
    scale = torch.where(scale == 0, 1.0, scale)
    solver = _enumerated if gram.shape[-1] <= ENUMERATED else _active_sets
    return solver(unit, slopes / scale) * scale / lengths


def _enumerated(gram: Tensor, linear: Tensor) -> Tensor:
    """By trying every active set; the one that violates least is it."""
    k = linear.shape[-1]
    sets = torch.arange(2**k, device=gram.device)
    chosen = (sets.unsqueeze(-1) >> torch.arange(k, device=gram.device)) % 2 == 1
    # (problems, sets, k, k + 1): after the sweeps the last column solves G_AA v_A = -c_A
    tableau = torch.cat((gram, -linear.unsqueeze(-1)), -1).unsqueeze(1).repeat(1, 2**k, 1, 1)
    swept = torch.zeros_like(chosen).expand(len(gram), -1, -1).clone()
    for i in range(k):
        pivot = tableau[:, :, i, i]
        sweep = chosen[:, i] & ~(pivot <= _INDEPENDENT)  # what is not a number goes on
        row = tableau[:, :, i] / torch.where(sweep, pivot, 1.0).unsqueeze(-1)
        rest = tableau - tableau[:, :, :, i].unsqueeze(-1) * row.unsqueeze(-2)
        rest[:, :, i] = row
        tableau = torch.where(sweep[..., None, None], rest, tableau)
        swept[:, :, i] = sweep
    multipliers = torch.where(swept, tableau[..., k], 0.0)
    products = (gram.unsqueeze(1) @ multipliers.unsqueeze(-1)).squeeze(-1) + linear.unsqueeze(1)
    violation = torch.maximum(-multipliers, -products).amax(-1)
    best = violation.argmin(-1)[:, None, None].expand(-1, 1, k)
    found = multipliers.gather(1, best).squeeze(1).clamp(min=0.0)
    return torch.where(linear.isfinite().all(-1, keepdim=True), found, torch.nan)


def _active_sets(gram: Tensor, linear: Tensor) -> Tensor:
    solved = [
        _active_set(one, c) for one, c in zip(gram.cpu().numpy(), linear.cpu().numpy(), strict=True)
    ]
    return torch.from_numpy(np.stack(solved)).to(gram.device)


def _active_set(gram: Matrix, linear: Matrix) -> Matrix:
    """Lawson and Hanson's algorithm NNLS, on the normal equations."""
    k = len(linear)
    multipliers = np.zeros(k)
    if not (np.isfinite(gram).all() and np.isfinite(linear).all()):
        return np.full(k, np.nan)
    free = np.zeros(k, bool)
    spanned = np.zeros(k, bool)
    for _ in range(10 * k):
        violation = -(gram @ multipliers + linear)
        violation[free | spanned] = 0.0
        entering = int(violation.argmax())
        if violation[entering] <= _ROUNDING:
            break
        if _rest(gram, free, entering) <= _INDEPENDENT:
            spanned[entering] = True
            continue
        free[entering] = True
        _move(gram, linear, multipliers, free)
        spanned[:] = False
    return multipliers


def _rest(gram: Matrix, free: npt.NDArray[np.bool_], entering: int) -> float:
    """Squared length of what the free references do not span of another one."""
    if not free.any():
        return float(gram[entering, entering])
    column = gram[free, entering]
    return float(
        gram[entering, entering] - column @ np.linalg.solve(gram[np.ix_(free, free)], column)
    )


def _move(gram: Matrix, linear: Matrix, multipliers: Matrix, free: npt.NDArray[np.bool_]) -> None:
    """To the optimum of the free ones, letting go of those that would turn negative, in place."""
    while free.any():
        target = np.zeros_like(multipliers)
        target[free] = np.linalg.solve(gram[np.ix_(free, free)], -linear[free])
        blocking = free & (target <= 0.0)
        if not blocking.any():
            multipliers[:] = target
            return
        steps = multipliers[blocking] / (multipliers[blocking] - target[blocking])
        multipliers += steps.min() * (target - multipliers)
        gone = np.flatnonzero(blocking)[steps == steps.min()]
        multipliers[gone] = 0.0
        free[gone] = False
    multipliers[:] = 0.0
