"""A small convolutional network from images to a vector."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from insitu.models.activations import ACTIVATIONS, Activation
from insitu.models.conv_levels import convolution, halved_sizes
from insitu.models.dense import dense_chain
from insitu.models.shapes import check_input, split_channels


class ConvClassifier(nn.Module):
    """Levels of convolution, activation and 2x2 max-pooling, then linear layers.

    Takes (channels, height, width) or (height, width) of any size and gives any shape, such as
    one logit a class.

    Example:
        >>> import torch
        >>> ConvClassifier((8, 8), (10,), channels=(8, 16))(torch.zeros(3, 8, 8)).shape
        torch.Size([3, 10])
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        output_shape: tuple[int, ...],
        *,
        channels: Annotated[
            tuple[Annotated[int, Field(ge=1)], ...],
            Field(
                min_length=1,
                description="channels of each level; every level halves height and width",
                json_schema_extra={"unit": "channels"},
            ),
        ] = (32, 64, 128),
        hidden: Annotated[
            tuple[Annotated[int, Field(ge=1)], ...],
            Field(
                description="units of each hidden linear layer behind the levels",
                json_schema_extra={"unit": "units"},
            ),
        ] = (),
        activation: Annotated[Activation, Field(description="behind each layer")] = "relu",
    ) -> None:
        super().__init__()
        self.input_shape, self.output_shape = tuple(input_shape), tuple(output_shape)
        inputs, spatial, self._has_channel_axis = split_channels(
            "conv_classifier", self.input_shape, 2
        )
        layers: list[nn.Module] = []
        for before, after in pairwise((inputs, *channels)):
            layers += [
                convolution(2, before, after),
                ACTIVATIONS[activation](),
                nn.MaxPool2d(2, ceil_mode=True),
            ]
        self.levels = nn.Sequential(*layers)
        features = channels[-1] * math.prod(halved_sizes(spatial, len(channels))[-1])
        self.head = dense_chain((features, *hidden, math.prod(output_shape)), activation)

    def forward(self, images: Tensor) -> Tensor:
        """(rows, *input_shape) -> (rows, *output_shape)."""
        check_input("conv_classifier", self.input_shape, images)
        maps = images if self._has_channel_axis else images.unsqueeze(1)
        outputs: Tensor = self.head(self.levels(maps).flatten(1))
        return outputs.reshape(images.shape[0], *self.output_shape)


COMPONENT = ConvClassifier
