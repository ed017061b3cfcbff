"""What stands behind Hebbian features: the part of the network that a gradient trains."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from insitu.errors import OperatorError

_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class Scale(nn.Module):
    """All features times one number, 1 at first.

    For objectives that compare features (nearest class mean) the number is an inverse temperature:
    it gives the gradient something to move, and changes no decision.

    Example:
        >>> Scale()(torch.tensor([[1.0, 2.0]])).tolist()
        [[1.0, 2.0]]
    """

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(1))

    def forward(self, features: Tensor) -> Tensor:
        return features * self.factor


class PerPlace(nn.Module):
    """One linear map at every place of the feature maps, to the places of the field below it.

    A 1x1 convolution to channels * factor^dimensions, whose channels are then laid out over the
    factor^dimensions places that a place of the maps stands for (Shi et al., "Real-time single
    image and video super-resolution using an efficient sub-pixel convolutional neural network",
    2016, here in one to three dimensions). It knows no border, so on periodic maps it is periodic.

    Args:
        maps: (channels, *places) of the features.
        channels: of the output.
        places: of the output, each a multiple of that of the maps.

    Raises:
        OperatorError: it is no multiple.

    Example:
        >>> PerPlace((8, 4, 4), 2, (16, 8))(torch.zeros(3, 8, 4, 4)).shape
        torch.Size([3, 2, 16, 8])
    """

    def __init__(self, maps: tuple[int, ...], channels: int, places: tuple[int, ...]) -> None:
        super().__init__()
        inputs, coarse = maps[0], maps[1:]
        if len(coarse) != len(places) or any(
            fine % few for few, fine in zip(coarse, places, strict=True)
        ):
            raise OperatorError(
                f"model hebbian: feature maps of {list(coarse)} places cannot give a field of "
                f"{list(places)}",
                allowed="fields whose sides are multiples of those of the maps",
                remedy="choose strides and pools whose product divides the field's sides, or an "
                "objective with one vector a row (classify, regress, ridge, nearest_class_mean)",
            )
        self.factors = [fine // few for few, fine in zip(coarse, places, strict=True)]
        self.channels = channels
        outputs = channels * math.prod(self.factors)
        self.convolution = _CONVOLUTIONS[len(coarse)](inputs, outputs, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """(rows, *maps) -> (rows, channels, *places)."""
        found: Tensor = self.convolution(maps)
        rows, coarse, count = found.shape[0], found.shape[2:], len(self.factors)
        split = found.reshape(rows, self.channels, *self.factors, *coarse)
        # each place, then its factor: (rows, channels, place, factor, place, factor, ...)
        order = [axis for d in range(count) for axis in (2 + count + d, 2 + d)]
        fine = [few * factor for few, factor in zip(coarse, self.factors, strict=True)]
        return split.permute(0, 1, *order).reshape(rows, self.channels, *fine)
