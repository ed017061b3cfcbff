"""The convolutional autoencoder in any number of dimensions that `conv_autoencoder_2d/3d` name."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from insitu.models.activations import ACTIVATIONS, Activation
from insitu.models.autoencoder import Autoencoder
from insitu.models.conv_levels import LevelsDown, halved_sizes, levels_up
from insitu.models.shapes import check_input, same_shape, split_channels

Channels = Annotated[
    tuple[Annotated[int, Field(ge=1)], ...],
    Field(
        min_length=1,
        description="channels of each level of the encoder, each of half the size of the one "
        "before; the decoder mirrors it",
        json_schema_extra={"unit": "channels"},
    ),
]
Latent = Annotated[
    int | None,
    Field(
        ge=1,
        description="size of the latent vector; left out: the latent is the last level's map, "
        "which keeps place and works for large fields",
        json_schema_extra={"unit": "units"},
    ),
]
Periodic = Annotated[
    bool, Field(description="opposite borders are neighbours, as in a periodic box")
]


class ConvAutoencoder(Autoencoder):
    """Levels down, a latent vector (or the last map itself), levels up.

    Args:
        name: of the component, for errors.
        spatial_axes: 2 or 3.
        input_shape: (channels, *spatial), or (*spatial) for fields without a channel axis.
        output_shape: the same.
    """

    def __init__(
        self,
        name: str,
        spatial_axes: int,
        input_shape: tuple[int, ...],
        output_shape: tuple[int, ...],
        *,
        channels: tuple[int, ...],
        latent: int | None,
        activation: Activation,
        periodic: bool,
    ) -> None:
        super().__init__()
        self.name = name
        self.input_shape, self.output_shape = tuple(input_shape), tuple(output_shape)
        same_shape(name, self.input_shape, self.output_shape)
        inputs, spatial, self._has_channel_axis = split_channels(
            name, self.input_shape, spatial_axes
        )
        sizes = halved_sizes(spatial, len(channels))
        self._map_shape = (channels[-1], *sizes[-1])
        self.latent_shape = self._map_shape if latent is None else (latent,)
        self.down = LevelsDown(spatial_axes, inputs, channels, activation, periodic)
        self.to_latent: nn.Module = nn.Identity()
        self.from_latent: nn.Module = nn.Identity()
        if latent is not None:
            elements = math.prod(self._map_shape)
            self.to_latent = nn.Sequential(nn.Flatten(), nn.Linear(elements, latent))
            self.from_latent = nn.Sequential(
                nn.Linear(latent, elements),
                ACTIVATIONS[activation](),
                nn.Unflatten(1, self._map_shape),
            )
        self.up = levels_up(sizes[-2::-1], (*channels[::-1], inputs), activation, periodic)

    def encode(self, fields: Tensor) -> Tensor:
        check_input(self.name, self.input_shape, fields)
        maps = fields if self._has_channel_axis else fields.unsqueeze(1)
        latents: Tensor = self.to_latent(self.down(maps))
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        check_input(self.name, self.latent_shape, latents, "latents")
        maps: Tensor = self.up(self.from_latent(latents))
        return maps if self._has_channel_axis else maps.squeeze(1)
