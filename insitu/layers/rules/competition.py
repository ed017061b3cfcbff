"""Kernels compete for a patch: who wins it, and what share each has of it.

On a CPU these passes over activations are what a Hebbian step costs beside its two convolutions, so
they take a few rows at a time, which stay in the cache, and write in place; with channels last all
places of these rows are one table with a column a kernel. `argmax` and `softmax` are three to ten
times slower there than the vectorised maxima that replace them. Compiled, they are expressions that
the compiler joins into one pass. Other devices take the plain operators. Up to shares of 1e-30 the
results are the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

#: values that each thread works on at once: what a core's cache holds
_VALUES_A_THREAD = 1 << 19
#: 2 to it is about 1e-30: smaller shares change no sum, but powers that underflow take a CPU ten
#: times as long, and large first weights make that most of all values
_LEAST_EXPONENT = -100.0


def one_hot(potentials: Tensor) -> Tensor:
    """1 for the kernel with the largest potential at each place (the first of equals), else 0."""
    if torch.compiler.is_compiling():
        return _by_kernels_last(potentials, lambda u: _wins(u).to(u.dtype))
    if not _in_pieces(potentials):
        return torch.zeros_like(potentials).scatter_(1, _argmax(potentials), 1.0)
    return _by_pieces(potentials, _one_hot_into)


def soft_shares(potentials: Tensor, inverse_temperature: float) -> Tensor:
    """softmax(t u) over the kernels, at each place."""
    if torch.compiler.is_compiling():
        return _by_kernels_last(potentials, lambda u: _shares(u, inverse_temperature))
    if not _in_pieces(potentials):
        return torch.softmax(potentials * inverse_temperature, dim=1)

    def fill(part: Tensor, shares: Tensor) -> None:
        torch.sub(part, part.amax(dim=1, keepdim=True), out=shares)
        shares.mul_(_raise(shares, inverse_temperature))

    return _by_pieces(potentials, fill)


def signed_shares(potentials: Tensor, inverse_temperature: float) -> Tensor:
    """+softmax(t u) for the winner of each place, -softmax(t u) for all others."""
    if torch.compiler.is_compiling():
        return _by_kernels_last(potentials, lambda u: _signed(u, inverse_temperature))
    if not _in_pieces(potentials):
        shares = torch.softmax(potentials * inverse_temperature, dim=1)
        winner = _argmax(potentials)
        share = shares.gather(1, winner)
        return shares.neg_().scatter_(1, winner, share)

    def fill(part: Tensor, shares: Tensor) -> None:
        torch.sub(part, part.amax(dim=1, keepdim=True), out=shares)
        winner = _first_zero(shares)
        scale = _raise(shares, inverse_temperature)
        # 2 onehot s - s, without a product of this size; the winner's share is the scale itself
        shares.mul_(-scale).scatter_(1, winner, scale)

    return _by_pieces(potentials, fill)


# --- in eager mode


def _argmax(potentials: Tensor) -> Tensor:
    return potentials.argmax(dim=1, keepdim=True)


def _in_pieces(potentials: Tensor) -> bool:
    # without places it is the number of operators that costs, and the plain ones are fewer
    return potentials.is_cpu and potentials.dim() > 2


def _by_pieces(potentials: Tensor, fill: Callable[[Tensor, Tensor], None]) -> Tensor:
    """What `fill(part, result)` makes of the rows, a few at a time."""
    result = torch.empty_like(potentials)
    at_once = _VALUES_A_THREAD * torch.get_num_threads()
    rows = max(1, at_once // max(1, potentials[:1].numel()))
    for first in range(0, len(potentials), rows):
        part, into = (_table(whole[first : first + rows]) for whole in (potentials, result))
        if part.dtype.itemsize >= 4:
            fill(part, into)
            continue
        wide = part.float()  # in less the numbers of the kernels would not be exact
        shares = torch.empty_like(wide)
        fill(wide, shares)
        into.copy_(shares)
    return result


def _table(part: Tensor) -> Tensor:
    """(rows * places, kernels) where that is how the memory is laid out, else as it is."""
    last = part.movedim(1, -1)
    return last.view(-1, last.shape[-1]) if last.is_contiguous() else part


def _one_hot_into(part: Tensor, result: Tensor) -> None:
    torch.sub(part, part.amax(dim=1, keepdim=True), out=result)
    winner = _first_zero(result)
    result.zero_().scatter_(1, winner, 1.0)


def _first_zero(gaps: Tensor) -> Tensor:
    """(rows, 1, *places) which kernel has gap 0, the first of several; all others are below 0.

    The kernel's number less the gap times the largest number there is: what is not 0 rises far
    above every number. NaN gives some kernel.
    """
    kernels = gaps.shape[1]
    numbers = torch.arange(kernels, dtype=gaps.dtype).view(-1, *(1,) * (gaps.dim() - 2))
    least = torch.add(numbers, gaps, alpha=-torch.finfo(gaps.dtype).max).amin(1, keepdim=True)
    return least.long().clamp_(0, kernels - 1)


def _raise(gaps: Tensor, inverse_temperature: float) -> Tensor:
    """exp(t gaps) in place, where the largest gap is 0; given back is what makes them sum to 1."""
    gaps.mul_(inverse_temperature / math.log(2.0)).clamp_(min=_LEAST_EXPONENT)
    gaps.exp2_()  # a quarter of the time of exp
    return gaps.sum(dim=1, keepdim=True).reciprocal_()


# --- compiled: kernels along the last axis


def _by_kernels_last(potentials: Tensor, make: Callable[[Tensor], Tensor]) -> Tensor:
    """What `make` makes, in the layout of `potentials`.

    Left to itself the compiler would transpose channels last into channels first on the way.
    """
    return make(potentials.movedim(1, -1)).movedim(-1, 1)


def _wins(potentials: Tensor) -> Tensor:
    kernels = potentials.shape[-1]
    # float, which is compared many at a time
    numbers = torch.arange(kernels, dtype=torch.float32, device=potentials.device)
    largest = potentials.amax(-1, keepdim=True)
    first = torch.where(potentials == largest, numbers, float(kernels)).amin(-1, keepdim=True)
    return numbers == first


def _shares(potentials: Tensor, inverse_temperature: float) -> Tensor:
    gaps = potentials - potentials.amax(-1, keepdim=True)
    # exp, which the compiler keeps for the second use; powers of two it would compute twice
    powers = torch.exp((gaps * inverse_temperature).clamp(min=_LEAST_EXPONENT * math.log(2.0)))
    return powers * powers.sum(-1, keepdim=True).reciprocal()


def _signed(potentials: Tensor, inverse_temperature: float) -> Tensor:
    shares = _shares(potentials, inverse_temperature)
    return torch.where(_wins(potentials), shares, -shares)
