"""Convolutional autoencoder of images and planes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from insitu.models.activations import Activation
from insitu.models.conv_autoencoder import Channels, ConvAutoencoder, Latent, Periodic


class ConvAutoencoder2d(ConvAutoencoder):
    """Autoencoder of fields (channels, height, width) or (height, width).

    Example:
        >>> import torch
        >>> model = ConvAutoencoder2d((1, 33, 20), (1, 33, 20), channels=(8, 8), latent=4)
        >>> fields = torch.zeros(2, 1, 33, 20)
        >>> model.encode(fields).shape, model(fields).shape == fields.shape
        (torch.Size([2, 4]), True)
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        output_shape: tuple[int, ...],
        *,
        channels: Channels = (16, 32, 64),
        latent: Latent = 64,
        activation: Annotated[Activation, Field(description="behind each convolution")] = "gelu",
        periodic: Periodic = False,
    ) -> None:
        super().__init__(
            "conv_autoencoder_2d",
            2,
            input_shape,
            output_shape,
            channels=channels,
            latent=latent,
            activation=activation,
            periodic=periodic,
        )


COMPONENT = ConvAutoencoder2d
