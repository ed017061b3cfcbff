"""A conditional normalising flow: the density of a few numbers, given others."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from insitu.errors import OperatorError
from insitu.models import spline
from insitu.models.dense import dense_chain
from insitu.models.shapes import check_input
from insitu.models.spline import Splines


class Centring(nn.Module):
    """x -> (x - shift(c)) exp(-log_scale(c)), both linear in the condition: follows a drift."""

    def __init__(self, dimensions: int, conditions: int) -> None:
        super().__init__()
        self.shift = nn.Linear(conditions, dimensions)
        self.log_scale = nn.Linear(conditions, dimensions)
        for layer in (self.shift, self.log_scale):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Values (rows, dimensions) and the log of the volume's change (rows,)."""
        log_scale = self.log_scale(condition)
        return (x - self.shift(condition)) * torch.exp(-log_scale), -log_scale.sum(dim=1)

    def inverse(self, z: Tensor, condition: Tensor) -> Tensor:
        moved: Tensor = z * torch.exp(self.log_scale(condition)) + self.shift(condition)
        return moved


class Coupling(nn.Module):
    """Bends every second dimension by splines that the others and the condition decide."""

    def __init__(
        self,
        dimensions: int,
        conditions: int,
        first: int,
        hidden: tuple[int, ...],
        bins: int,
        bound: float,
    ) -> None:
        super().__init__()
        bent = list(range(first, dimensions, 2)) if dimensions > 1 else [0]
        others = [dimension for dimension in range(dimensions) if dimension not in bent]
        self.register_buffer("bent", torch.tensor(bent), persistent=False)
        self.register_buffer("others", torch.tensor(others, dtype=torch.int64), persistent=False)
        order = torch.tensor([*bent, *others]).argsort()
        self.register_buffer("order", order, persistent=False)
        self._bins, self._bound = bins, bound
        # a single dimension without condition is bent by constants: the weights of an input of 1
        sizes = (max(1, len(others) + conditions), *hidden, len(bent) * spline.parameters_of(bins))
        self.decide = dense_chain(sizes, "silu")
        last = self.decide[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    bent: Tensor
    others: Tensor
    order: Tensor

    def _splines(self, others: Tensor, condition: Tensor) -> Splines:
        known = torch.cat((others, condition), dim=1)
        if known.shape[1] == 0:
            known = known.new_ones(known.shape[0], 1)
        raw = self.decide(known).to(known.dtype)
        return Splines.of(raw.unflatten(1, (len(self.bent), -1)), self._bound)

    def forward(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Values (rows, dimensions) and the log of the volume's change (rows,)."""
        others = x.index_select(1, self.others)
        y, log_slope = spline.forward(
            x.index_select(1, self.bent), self._splines(others, condition)
        )
        return torch.cat((y, others), dim=1).index_select(1, self.order), log_slope.sum(dim=1)

    def inverse(self, y: Tensor, condition: Tensor) -> Tensor:
        others = y.index_select(1, self.others)
        x = spline.inverse(y.index_select(1, self.bent), self._splines(others, condition))
        return torch.cat((x, others), dim=1).index_select(1, self.order)


class ConditionalFlow(nn.Module):
    """Log density of the first inputs given the last ones, by invertible layers to a Gaussian.

    Durkan et al., "Neural spline flows" (2019): coupling layers of rational-quadratic splines with
    linear tails. Takes (dimensions + conditions,) numbers, x first, and gives log p(x | condition)
    in nats: (1,). In front stands a shift and scale that is linear in the condition, so that a
    density which drifts is followed beyond the conditions that were trained.

    The splines bend [-bound, bound] only: choose it to hold nearly all of x, or normalise x. For a
    handful of dimensions; hundreds want another architecture.

    Deviations: no permutations or linear layers between the couplings, which few dimensions
    do without; starts as the identity.

    Example:
        >>> flow = ConditionalFlow((3,), (1,), conditions=1, hidden=(8,))
        >>> flow(torch.zeros(2, 3)).exp()[0].item()  # a Gaussian at first: 1 / (2 pi)
        0.1591...
        >>> flow.sample(torch.zeros(5, 1), torch.Generator().manual_seed(0)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        output_shape: tuple[int, ...],
        *,
        conditions: Annotated[
            int,
            Field(
                ge=0,
                description="how many of the last inputs are the condition",
                json_schema_extra={"unit": "inputs"},
            ),
        ] = 1,
        layers: Annotated[
            int,
            Field(ge=1, description="coupling layers", json_schema_extra={"unit": "layers"}),
        ] = 4,
        hidden: Annotated[
            tuple[Annotated[int, Field(ge=1)], ...],
            Field(
                description="units of each hidden layer that decides a coupling's splines",
                json_schema_extra={"unit": "units"},
            ),
        ] = (64, 64),
        bins: Annotated[
            int,
            Field(
                ge=2, le=256, description="pieces of a spline", json_schema_extra={"unit": "bins"}
            ),
        ] = 16,
        bound: Annotated[
            float,
            Field(
                gt=0.0,
                description="splines bend values of at most this size",
                json_schema_extra={"unit": "units of x"},
            ),
        ] = 5.0,
    ) -> None:
        super().__init__()
        self.input_shape, self.output_shape = tuple(input_shape), tuple(output_shape)
        inputs = math.prod(input_shape)
        if conditions >= inputs or math.prod(output_shape) != 1:
            raise OperatorError(
                f"model conditional_flow has {inputs} inputs, {conditions} of them conditions, "
                f"and is to give {list(output_shape)}",
                allowed="at least one input that is no condition, and one output, the log density",
                remedy="use it with objective density, and set conditions to the size of its "
                "condition",
            )
        self.dimensions = inputs - conditions
        self.centring = Centring(self.dimensions, conditions) if conditions else None
        self.couplings = nn.ModuleList(
            Coupling(self.dimensions, conditions, layer % 2, hidden, bins, bound)
            for layer in range(layers)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """(rows, *input_shape) -> (rows, *output_shape), log densities."""
        z, log_volume = self.to_base(inputs)
        log_base = -0.5 * (z.square() + math.log(2 * math.pi)).sum(dim=1)
        return (log_base + log_volume).reshape(inputs.shape[0], *self.output_shape)

    def to_base(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Values that are Gaussian if the model is right (rows, dimensions), and the log of how
        much the map enlarges volume (rows,)."""
        check_input("conditional_flow", self.input_shape, inputs)
        flat = inputs.reshape(inputs.shape[0], math.prod(self.input_shape))
        z, condition = flat[:, : self.dimensions], flat[:, self.dimensions :]
        log_volume = z.new_zeros(z.shape[0])
        for layer in ([self.centring] if self.centring is not None else []) + list(self.couplings):
            z, change = layer(z, condition)
            log_volume = log_volume + change
        return z, log_volume

    @torch.no_grad()
    def sample(self, condition: Tensor, generator: torch.Generator) -> Tensor:
        """(rows, dimensions) drawn from the density given (rows, conditions).

        Args:
            generator: on the CPU.
        """
        shape = (condition.shape[0], self.dimensions)
        z = torch.randn(shape, generator=generator).to(condition)
        for layer in reversed(self.couplings):
            assert isinstance(layer, Coupling)
            z = layer.inverse(z, condition)
        return z if self.centring is None else self.centring.inverse(z, condition)


COMPONENT = ConditionalFlow
