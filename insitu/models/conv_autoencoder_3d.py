"""Convolutional autoencoder of volumes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from insitu.models.activations import Activation
from insitu.models.conv_autoencoder import Channels, ConvAutoencoder, Latent, Periodic


class ConvAutoencoder3d(ConvAutoencoder):
    """Autoencoder of fields (channels, depth, height, width) or (depth, height, width).

    Example:
        >>> import torch
        >>> model = ConvAutoencoder3d((9, 8, 5), (9, 8, 5), channels=(4, 4), latent=4)
        >>> fields = torch.zeros(2, 9, 8, 5)
        >>> model.encode(fields).shape, model(fields).shape == fields.shape
        (torch.Size([2, 4]), True)
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        output_shape: tuple[int, ...],
        *,
        channels: Channels = (8, 16, 32),
        latent: Latent = 64,
        activation: Annotated[Activation, Field(description="behind each convolution")] = "gelu",
        periodic: Periodic = False,
    ) -> None:
        super().__init__(
            "conv_autoencoder_3d",
            3,
            input_shape,
            output_shape,
            channels=channels,
            latent=latent,
            activation=activation,
            periodic=periodic,
        )


COMPONENT = ConvAutoencoder3d
