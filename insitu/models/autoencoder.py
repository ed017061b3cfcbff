"""What autoencoders share: encode, decode, and the inverse round from latent to latent."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Autoencoder(nn.Module, ABC):
    """A model that gives back its input by way of a smaller latent.

    `inverse` runs the model the other way round: where `forward` goes field -> latent -> field,
    it goes latent -> field -> latent. A latent that comes back as it was is one that the decoder
    turns into a field of the kind it was trained on; the distance measures how far off it is.
    """

    latent_shape: tuple[int, ...]

    @abstractmethod
    def encode(self, fields: Tensor) -> Tensor:
        """(rows, *input_shape) -> (rows, *latent_shape)."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """(rows, *latent_shape) -> (rows, *output_shape)."""

    def forward(self, fields: Tensor) -> Tensor:
        """decode(encode(fields))."""
        return self.decode(self.encode(fields))

    def inverse(self, latents: Tensor) -> Tensor:
        """encode(decode(latents)): (rows, *latent_shape) -> (rows, *latent_shape)."""
        return self.encode(self.decode(latents))
