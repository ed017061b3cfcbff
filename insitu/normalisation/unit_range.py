"""Integers as real numbers: what a camera counts becomes a share of full scale."""

from __future__ import annotations

import torch
from torch import Tensor

#: full scale of the integers that are samples of an analogue value
_FULL_SCALE = {
    torch.uint8: 255.0,
    torch.int8: 127.0,
    torch.uint16: 65535.0,
    torch.int16: 32767.0,
}


def to_unit_range(tensor: Tensor) -> Tensor:
    """Real numbers for any tensor that is not complex; floating ones come back as they are.

    8- and 16-bit integers are divided by the largest value of their dtype, so that an image is
    in [0, 1] (signed sound in about [-1, 1]). Wider integers count something, so they keep their
    value, as do booleans (0 and 1). What was not floating is float32.

    Example:
        >>> to_unit_range(torch.tensor([0, 51, 255], dtype=torch.uint8))
        tensor([0.0000, 0.2000, 1.0000])
        >>> to_unit_range(torch.tensor([7]))
        tensor([7.])
    """
    if tensor.is_floating_point():
        return tensor
    real = tensor.to(torch.float32)
    full_scale = _FULL_SCALE.get(tensor.dtype)
    return real if full_scale is None else real.div_(full_scale)
