"""How far outputs are from a real-valued field, by sample and as a whole."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Distance = Literal["mse", "l1"]


def flat(tensor: Tensor) -> Tensor:
    """(rows, ...) -> (rows, elements), for 0 rows and scalars too."""
    return tensor.reshape(tensor.shape[0], math.prod(tensor.shape[1:]))


def distance_per_sample(distance: Distance, outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared (`mse`) or mean absolute (`l1`) difference of every sample: (rows,).

    Example:
        >>> distance_per_sample("l1", torch.zeros(2, 2), torch.tensor([[1.0, 3.0], [0.0, 0.0]]))
        tensor([2., 0.])
    """
    difference = flat(outputs - targets)
    error = difference.square() if distance == "mse" else difference.abs()
    return error.mean(dim=1)


def root_mean_square(outputs: Tensor, targets: Tensor) -> Tensor:
    """Root of the mean squared difference over all rows and elements: 0-dim."""
    return (outputs - targets).square().mean().sqrt()


def relative_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean over the samples of ||outputs - targets|| / ||targets|| in L2: 0-dim.

    1 is what a model reaches that always gives zero (with a normaliser: the running mean).
    """
    norm = torch.linalg.vector_norm
    size = norm(flat(targets), dim=1).clamp_min(torch.finfo(torch.float32).eps)
    errors: Tensor = norm(flat(outputs - targets), dim=1) / size
    return errors.mean()
