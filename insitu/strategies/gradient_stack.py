"""Gradients of the same parameters side by side, their Gram matrix, and sums of them.

Products are summed in float64, a stretch of columns at a time that stays in the cache, so they are
exact up to the rounding of the gradients themselves; float32 sums over a million weights would make
duplicates look independent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import accumulate, pairwise
from typing import Literal

import torch
from torch import Tensor

#: what a projection is made for: all parameters as one vector, or each parameter tensor by itself
Per = Literal["network", "tensor"]

#: columns that are worked on at once: a few hundred KiB on a CPU, few launches on a GPU
_COLUMNS = {"cpu": 2**14}
_MOST_COLUMNS = 2**22


class GradientStack:
    """A block of rows, one a gradient, each over all elements of all parameters.

    Args:
        parameters: gradients have their shapes, in their order.
        per: `network` makes one Gram matrix, `tensor` one for every parameter.

    Example:
        >>> stack = GradientStack([torch.zeros(2), torch.zeros(1)], "network")
        >>> stack.reserve(2)
        >>> stack.write(0, [torch.tensor([1.0, 2.0]), torch.tensor([0.0])])
        >>> stack.write(1, [torch.tensor([3.0, 0.0]), torch.tensor([4.0])])
        >>> stack.gram().tolist()
        [[[5.0, 3.0], [3.0, 25.0]]]
        >>> stack.sums(torch.tensor([[2.0, 1.0]]).double())
        [tensor([5., 4.]), tensor([4.])]
    """

    def __init__(self, parameters: Sequence[Tensor], per: Per) -> None:
        self._shapes = [parameter.shape for parameter in parameters]
        self._sizes = [parameter.numel() for parameter in parameters]
        dtype = reduce(torch.promote_types, [parameter.dtype for parameter in parameters])
        device = parameters[0].device
        self._block = torch.empty(0, sum(self._sizes), dtype=dtype, device=device)
        self._sum = torch.empty(sum(self._sizes), dtype=dtype, device=device)
        self._rows = 0
        self._per = per
        #: how many Gram matrices there are
        self.groups = 1 if per == "network" else len(self._sizes)
        self._columns = _COLUMNS.get(device.type, _MOST_COLUMNS)

    def reserve(self, rows: int) -> None:
        """Use this many rows from now on; room is made only for more than there ever were."""
        self._rows = rows
        if rows > len(self._block):
            self._block = self._block.new_empty(rows, self._block.shape[1])

    def write(self, row: int, gradients: Sequence[Tensor]) -> None:
        """Put a gradient into a row."""
        torch.cat([gradient.detach().reshape(-1) for gradient in gradients], out=self._block[row])

    def gram(self) -> Tensor:
        """(groups, rows, rows) float64: the products of all rows with each other."""
        rows = self._rows
        gram = torch.zeros(self.groups, rows, rows, dtype=torch.float64, device=self._block.device)
        for group, columns in self._stretches():
            part = self._block[:rows, columns].to(torch.float64)
            gram[group].addmm_(part, part.T)
        return gram

    def sums(self, weights: Tensor) -> list[Tensor]:
        """Sums of the rows with (groups, rows) weights, one tensor a parameter, as views."""
        for group, columns in self._stretches():
            part = self._block[: self._rows, columns].to(torch.float64)
            self._sum[columns] = weights[group] @ part
        parts = torch.split(self._sum, self._sizes)
        return [part.view(shape) for part, shape in zip(parts, self._shapes, strict=True)]

    def _stretches(self) -> Iterator[tuple[int, slice]]:
        """Group and columns of each stretch."""
        sizes = [sum(self._sizes)] if self._per == "network" else self._sizes
        for group, (begin, end) in enumerate(pairwise(accumulate(sizes, initial=0))):
            for start in range(begin, end, self._columns):
                yield group, slice(start, min(start + self._columns, end))
