"""How fast each kernel moves: by its norm, always the same, or ever slower."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from insitu.errors import OperatorError


class LearningRates(ABC):
    """One learning rate a kernel, from what the layer's state holds and from nothing else."""

    def __init__(self, eta: float) -> None:
        if not eta > 0.0:
            raise OperatorError(f"the learning rate of a Hebbian layer is {eta}", allowed="above 0")
        self.eta = eta

    @abstractmethod
    def __call__(self, norms: Tensor, updates: Tensor) -> Tensor:
        """(kernels,) rates.

        Args:
            norms: (kernels,) Euclidean norms of the weights.
            updates: 0-dim, how many updates the layer has had.
        """


class AdaptiveRates(LearningRates):
    """eta (| ||w|| - 1 | + 1e-10)^power: a kernel slows down as its norm comes to 1.

    Journé et al., "Hebbian deep learning without feedback" (ICLR 2023).

    Example:
        >>> AdaptiveRates(0.1, power=0.5)(torch.tensor([1.0, 5.0]), torch.tensor(0))
        tensor([1.0000e-06, 2.0000e-01])
    """

    def __init__(self, eta: float, *, power: float = 0.5) -> None:
        super().__init__(eta)
        self.power = power

    def __call__(self, norms: Tensor, updates: Tensor) -> Tensor:
        return norms.sub(1.0).abs_().add_(1e-10).pow_(self.power).mul_(self.eta)


class ConstantRates(LearningRates):
    """eta for every kernel, always.

    Example:
        >>> ConstantRates(0.1)(torch.tensor([1.0, 5.0]), torch.tensor(0))
        tensor([0.1000, 0.1000])
    """

    def __call__(self, norms: Tensor, updates: Tensor) -> Tensor:
        return torch.full_like(norms, self.eta)


class LinearRates(LearningRates):
    """eta (1 - updates / last_update), and 0 from then on; the same for every kernel.

    Example:
        >>> LinearRates(0.1, last_update=4)(torch.ones(1), torch.tensor(1))
        tensor([0.0750])
    """

    def __init__(self, eta: float, *, last_update: int) -> None:
        super().__init__(eta)
        if last_update < 1:
            raise OperatorError(
                f"the learning rate falls to 0 after {last_update} updates", allowed="1 or more"
            )
        self.last_update = last_update

    def __call__(self, norms: Tensor, updates: Tensor) -> Tensor:
        left = (1.0 - updates.to(norms.dtype) / self.last_update).clamp(min=0.0)
        return left.mul(self.eta).expand_as(norms)
