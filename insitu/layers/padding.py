"""What lies beyond the border of an input: its mirror image, its other side, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor
from torch.nn import functional

from insitu.errors import OperatorError

PaddingMode = Literal["reflect", "circular", "zeros"]


def pad(rows: Tensor, amounts: Sequence[int], mode: PaddingMode) -> Tensor:
    """`rows` with `amounts[d]` places more on both sides of dimension d; itself if all are 0.

    `reflect` mirrors at the outermost places without repeating them, `circular` goes on at the
    other side, as fields of periodic simulations do.

    Args:
        rows: (rows, channels, *places).

    Raises:
        OperatorError: `reflect` needs more places than it adds on a side, `circular` as many.

    Example:
        >>> import torch
        >>> pad(torch.arange(4.0).reshape(1, 1, 4), [2], "reflect")
        tensor([[[2., 1., 0., 1., 2., 3., 2., 1.]]])
    """
    if not any(amounts):
        return rows
    spare = {"reflect": 1, "circular": 0, "zeros": None}[mode]
    places = rows.shape[2:]
    if spare is not None and any(
        amount and amount + spare > extent for amount, extent in zip(amounts, places, strict=True)
    ):
        raise OperatorError(
            f"{mode} padding of {list(amounts)} on an input of {list(places)} places",
            allowed="at most the size of the input" + (" less 1" if spare else ""),
            remedy="pad less, use zeros, or feed larger inputs",
        )
    both_sides = [amount for amount in reversed(amounts) for _ in range(2)]
    return functional.pad(rows, both_sides, mode="constant" if mode == "zeros" else mode)
