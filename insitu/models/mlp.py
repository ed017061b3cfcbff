"""Multi-layer perceptron between fields of any shape."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from insitu.models.activations import Activation
from insitu.models.dense import dense_chain
from insitu.models.shapes import check_input


class MLP(nn.Module):
    """Flatten, linear layers with activations between them, reshape.

    Example:
        >>> import torch
        >>> MLP((8, 8), (10,), hidden=(32, 32))(torch.zeros(5, 8, 8)).shape
        torch.Size([5, 10])
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        output_shape: tuple[int, ...],
        *,
        hidden: Annotated[
            tuple[Annotated[int, Field(ge=1)], ...],
            Field(
                description="units of each hidden layer; empty: a linear model",
                json_schema_extra={"unit": "units"},
            ),
        ] = (256, 256),
        activation: Annotated[Activation, Field(description="between the layers")] = "relu",
        layer_norm: Annotated[
            bool, Field(description="normalise over the units of a layer before each activation")
        ] = False,
    ) -> None:
        super().__init__()
        self.input_shape, self.output_shape = tuple(input_shape), tuple(output_shape)
        self._inputs = math.prod(input_shape)
        sizes = (self._inputs, *hidden, math.prod(output_shape))
        self.layers = dense_chain(sizes, activation, layer_norm=layer_norm)

    def forward(self, fields: Tensor) -> Tensor:
        """(rows, *input_shape) -> (rows, *output_shape)."""
        check_input("mlp", self.input_shape, fields)
        outputs: Tensor = self.layers(fields.reshape(fields.shape[0], self._inputs))
        return outputs.reshape(fields.shape[0], *self.output_shape)


COMPONENT = MLP
