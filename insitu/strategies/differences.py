"""Differences of all parameters, in the cache when they are used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


class Differences:
    """x - y, one parameter after the other.

    On a CPU they take turns in one buffer of the size of the largest parameter: who uses each
    before asking for the next finds it in the cache, and nothing is allocated. Elsewhere all are
    computed at once, which takes fewer launches.

    Args:
        like: tensors of the shapes, types and device of what will be given.

    Example:
        >>> x, y = [torch.ones(2), torch.ones(1)], [torch.zeros(2), torch.full((1,), 3.0)]
        >>> [difference.tolist() for difference in Differences(x)(x, y)]
        [[1.0, 1.0], [-2.0]]
    """

    def __init__(self, like: Sequence[Tensor]) -> None:
        self._at_once = any(tensor.device.type != "cpu" for tensor in like)
        self._views: list[Tensor] = []
        if not self._at_once:
            largest: dict[torch.dtype, int] = {}
            for tensor in like:
                largest[tensor.dtype] = max(largest.get(tensor.dtype, 0), tensor.numel())
            buffers = {dtype: torch.empty(size, dtype=dtype) for dtype, size in largest.items()}
            self._views = [buffers[t.dtype][: t.numel()].view(t.shape) for t in like]

    def __call__(self, xs: Sequence[Tensor], ys: Sequence[Tensor]) -> Iterator[Tensor]:
        """Each is valid until the next is asked for; to be called without autograd."""
        if self._at_once:
            yield from torch._foreach_sub(list(xs), list(ys))
            return
        for x, y, view in zip(xs, ys, self._views, strict=True):
            yield torch.sub(x, y, out=view)
