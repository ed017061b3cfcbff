"""What a dictionary of image patches is made of: patches, whitening, atoms."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def random_patches(images: Tensor, size: int, count: int, generator: torch.Generator) -> Tensor:
    """(count, channels * size * size) patches at random places of random images.

    Args:
        images: (rows, channels, height, width), 1 row or more.
        generator: on the CPU.
    """
    rows, channels, height, width = images.shape
    row = torch.randint(rows, (count,), generator=generator)
    top = torch.randint(height - size + 1, (count,), generator=generator)
    left = torch.randint(width - size + 1, (count,), generator=generator)
    span = torch.arange(size)
    down = (top.unsqueeze(1) + span).view(count, 1, size, 1)
    right = (left.unsqueeze(1) + span).view(count, 1, 1, size)
    channel = torch.arange(channels).view(1, channels, 1, 1)
    index = (row.view(count, 1, 1, 1), channel, down, right)
    return images[tuple(part.to(images.device) for part in index)].flatten(1)


def standardised(patches: Tensor, contrast: float) -> Tensor:
    """Each patch less its mean, over its deviation; `contrast` is added to the variance."""
    centred = patches - patches.mean(dim=1, keepdim=True)
    return centred / (centred.square().mean(dim=1, keepdim=True) + contrast).sqrt()


def whitening(patches: Tensor, regularisation: float) -> tuple[Tensor, Tensor]:
    """The mean (length,) of patches, and the symmetric map (length, length) that makes their
    covariance about 1 in all directions (ZCA)."""
    mean = patches.double().mean(dim=0)
    centred = patches.double() - mean
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(patches))
    scale = (values.clamp_min(0) + regularisation).rsqrt()
    return mean.to(patches), ((vectors * scale) @ vectors.T).to(patches)


def atoms(whitened: Tensor, count: int, iterations: int, generator: torch.Generator) -> Tensor:
    """(count, length) directions of length 1: patches drawn at random, then spherical k-means.

    Coates and Ng, "Learning feature representations with k-means" (2012), section 2.2: assign every
    patch to the atom that it has the largest product with (of either sign), move the atom to
    the sum of its patches times these products, plus itself, and scale to length 1. With no
    iterations the atoms are the patches.
    """
    drawn = torch.randperm(len(whitened), generator=generator)
    drawn = drawn.repeat(-(-count // len(whitened)))[:count].to(whitened.device)
    found = functional.normalize(whitened[drawn], dim=1)
    for _ in range(iterations):
        products = whitened @ found.T
        best = products.abs().argmax(dim=1)
        weights = products.gather(1, best.unsqueeze(1))
        found = functional.normalize(found.index_add(0, best, weights * whitened), dim=1)
    return found
