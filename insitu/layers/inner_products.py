"""The inner product of every row with every kernel, by the faster of two libraries.

torch multiplies float32 matrices on x86 by MKL, whose fast paths are for processors of its own
maker: on an AMD EPYC oneDNN, which torch has beside it, takes half of the time, from some four
million products on; below, its calls cost more than they save.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_LEAST_PRODUCTS = 1 << 22


def inner_products(rows: Tensor, weight: Tensor) -> Tensor:
    """(rows, features) and (kernels, features) -> (rows, kernels).

    Deviations: large products without autograd in float32 on a CPU sum in another order than
    `torch.nn.functional.linear`, so they agree to rounding.

    Example:
        >>> inner_products(torch.ones(2, 3), torch.ones(4, 3))[0]
        tensor([3., 3., 3., 3.])
    """
    if not _gains(rows, weight):
        return functional.linear(rows, weight)
    product: Tensor = functional.linear(rows.to_mkldnn(), weight).to_dense()
    return product


def _gains(rows: Tensor, weight: Tensor) -> bool:
    return bool(
        not torch.compiler.is_compiling()
        and rows.is_cpu
        and rows.dtype == weight.dtype == torch.float32
        and not torch.is_grad_enabled()
        and rows.shape[0] * weight.numel() >= _LEAST_PRODUCTS
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    )
