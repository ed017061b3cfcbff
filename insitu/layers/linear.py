"""A fully connected Hebbian layer."""

from __future__ import annotations

import torch
from torch import Tensor

from insitu.errors import OperatorError
from insitu.layers.hebbian import HebbianLayer
from insitu.layers.initial_weights import InitialWeights
from insitu.layers.inner_products import inner_products
from insitu.layers.learning_rates import LearningRates
from insitu.layers.rules.base import Rule


class HebbianLinear(HebbianLayer):
    """(rows, in_features) -> (rows, out_features), and a Hebbian direction beside it.

    See `HebbianLayer` for what it learns, what it keeps and what it ignores.

    Raises:
        OperatorError: a size below 1; input of another shape.

    Example:
        >>> from insitu.layers.learning_rates import AdaptiveRates
        >>> from insitu.layers.rules.softhebb import SoftHebb
        >>> from insitu.layers.update import HebbianUpdate
        >>> layer = HebbianLinear(3, 4, SoftHebb(), AdaptiveRates(0.05))
        >>> update = HebbianUpdate(layer)
        >>> layer(torch.rand(8, 3)).shape
        torch.Size([8, 4])
        >>> update.step()
        >>> layer.updates
        tensor(1)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rule: Rule,
        learning_rates: LearningRates,
        *,
        initial_weights: InitialWeights = "normal",
        radius: float | None = None,
        activations: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        if in_features < 1 or out_features < 1:
            raise OperatorError(
                f"a Hebbian layer from {in_features} to {out_features} features",
                allowed="1 or more of each",
            )
        super().__init__(
            (out_features, in_features),
            rule,
            learning_rates,
            initial_weights=initial_weights,
            radius=radius,
            activations=activations,
            generator=generator,
        )
        self.in_channels, self.out_channels = in_features, out_features

    #: how many dimensions the places have
    dimensions = 0

    def _prepared(self, rows: Tensor) -> Tensor:
        if rows.dim() != 2 or rows.shape[1] != self.in_channels:
            raise OperatorError(
                f"a Hebbian layer of {self.in_channels} inputs was given {list(rows.shape)}",
                allowed=f"(rows, {self.in_channels})",
            )
        return rows

    def _potentials(self, prepared: Tensor) -> Tensor:
        return inner_products(prepared, self.weight.to(prepared.dtype))

    def _find_direction(self, activities: Tensor, prepared: Tensor, potentials: Tensor) -> None:
        decay = self._decay(activities, potentials)
        # the compiler joins passes, but none with a product; and a product is not added to a sum of
        # another precision
        if torch.compiler.is_compiling() or activities.dtype != self.weight.dtype:
            correlation = torch.mm(activities.t(), prepared).to(self.weight.dtype)
            self.direction.copy_(torch.addcmul(correlation, self.weight, decay, value=-1.0))
            return
        torch.mul(self.weight, decay.neg_(), out=self.direction)
        self.direction.addmm_(activities.t(), prepared)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, rule={type(self.rule).__name__}"
