"""A reduced residual network for small images."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from insitu.models.shapes import check_input, split_channels

Norm = Literal["group", "batch"]


def _norm(kind: Norm, channels: int) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    # four channels a group where that goes, else as few groups as fit
    return nn.GroupNorm(channels // math.gcd(channels, 4), channels)


def _convolution(inputs: int, outputs: int, size: int, stride: int) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


class _Block(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.first = _convolution(inputs, outputs, 3, stride)
        self.first_norm = _norm(norm, outputs)
        self.second = _convolution(outputs, outputs, 3, 1)
        self.second_norm = _norm(norm, outputs)
        self.around = nn.Sequential()
        if stride > 1 or inputs != outputs:
            self.around = nn.Sequential(
                _convolution(inputs, outputs, 1, stride), _norm(norm, outputs)
            )

    def forward(self, maps: Tensor) -> Tensor:
        inner = functional.relu(self.first_norm(self.first(maps)))
        return functional.relu(self.second_norm(self.second(inner)) + self.around(maps))


class ResNet(nn.Module):
    """ResNet-18 with fewer channels, for images of about 32 x 32.

    He et al., "Deep residual learning for image recognition" (2016), reduced as in Lopez-Paz and
    Ranzato, "Gradient episodic memory" (2017), which continual learning compares on: a 3-wide first
    convolution without pooling, four stages of two blocks with width, 2, 4 and 8 times the width
    channels, the mean over the image, a linear layer.

    Deviations: `norm: group` (Wu and He, "Group normalization", 2018) is the default, not batch
    norm: a batch of a stream is of one class or one time, whose statistics are not those of
    what is evaluated, and a row's output shall not depend on its neighbours. With `norm: batch`
    both are so, running statistics are state, and gradients per sample are those of evaluation
    mode.

    Example:
        >>> import torch
        >>> ResNet((3, 32, 32), (10,), width=4)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        output_shape: tuple[int, ...],
        *,
        width: Annotated[
            int,
            Field(
                ge=1,
                description="channels of the first stage; each of the next three has twice as many",
                json_schema_extra={"unit": "channels"},
            ),
        ] = 20,
        norm: Annotated[
            Norm, Field(description="normalise over groups of channels, or over the batch")
        ] = "group",
    ) -> None:
        super().__init__()
        self.input_shape, self.output_shape = tuple(input_shape), tuple(output_shape)
        inputs, _, self._has_channel_axis = split_channels("resnet", self.input_shape, 2)
        self.stem = nn.Sequential(_convolution(inputs, width, 3, 1), _norm(norm, width), nn.ReLU())
        blocks, before = [], width
        for stage in range(4):
            after = width * 2**stage
            blocks += [
                _Block(before, after, 1 if stage == 0 else 2, norm),
                _Block(after, after, 1, norm),
            ]
            before = after
        self.stages = nn.Sequential(*blocks)
        self.head = nn.Linear(before, math.prod(output_shape))

    def forward(self, images: Tensor) -> Tensor:
        """(rows, *input_shape) -> (rows, *output_shape)."""
        check_input("resnet", self.input_shape, images)
        maps = images if self._has_channel_axis else images.unsqueeze(1)
        features = self.stages(self.stem(maps)).mean(dim=(2, 3))
        outputs: Tensor = self.head(features)
        return outputs.reshape(images.shape[0], *self.output_shape)


COMPONENT = ResNet
