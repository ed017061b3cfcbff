"""Autoencoder of linear layers, for fields of any shape and no spatial order."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field
from torch import Tensor

from insitu.models.activations import Activation
from insitu.models.autoencoder import Autoencoder
from insitu.models.dense import dense_chain
from insitu.models.shapes import check_input, same_shape


class MLPAutoencoder(Autoencoder):
    """Linear layers down to the latent and, in the opposite order, up again.

    Example:
        >>> import torch
        >>> model = MLPAutoencoder((3, 5), (3, 5), hidden=(16,), latent=4)
        >>> model.encode(torch.zeros(2, 3, 5)).shape, model(torch.zeros(2, 3, 5)).shape
        (torch.Size([2, 4]), torch.Size([2, 3, 5]))
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        output_shape: tuple[int, ...],
        *,
        hidden: Annotated[
            tuple[Annotated[int, Field(ge=1)], ...],
            Field(
                description="units of each hidden layer of the encoder; the decoder mirrors it",
                json_schema_extra={"unit": "units"},
            ),
        ] = (256, 128),
        latent: Annotated[
            int, Field(ge=1, description="size of the latent", json_schema_extra={"unit": "units"})
        ] = 32,
        activation: Annotated[Activation, Field(description="between the layers")] = "gelu",
    ) -> None:
        super().__init__()
        self.input_shape, self.output_shape = tuple(input_shape), tuple(output_shape)
        same_shape("mlp_autoencoder", self.input_shape, self.output_shape)
        self.latent_shape = (latent,)
        self._elements = math.prod(input_shape)
        sizes = (self._elements, *hidden, latent)
        self.encoder = dense_chain(sizes, activation)
        self.decoder = dense_chain(sizes[::-1], activation)

    def encode(self, fields: Tensor) -> Tensor:
        check_input("mlp_autoencoder", self.input_shape, fields)
        latents: Tensor = self.encoder(fields.reshape(fields.shape[0], self._elements))
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        check_input("mlp_autoencoder", self.latent_shape, latents, "latents")
        fields: Tensor = self.decoder(latents)
        return fields.reshape(latents.shape[0], *self.output_shape)


COMPONENT = MLPAutoencoder
