"""Features of images by a dictionary of their own patches; nothing of it is trained by gradient."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from insitu.errors import OperatorError
from insitu.models import patch_dictionary
from insitu.models.shapes import check_input, split_channels

#: images whose maps are made at once: about what stays in the cache of a core
_IMAGES_AT_ONCE = 2


class RandomPatches(nn.Module):
    """Whitened patches against a dictionary, a non-linearity, sums over quadrants: a vector.

    Coates, Ng and Lee, "An analysis of single-layer networks in unsupervised feature learning"
    (2011); Coates and Ng, "The importance of encoding versus training with sparse coding and vector
    quantization" (2011). With p a patch, standardised and ZCA-whitened, and d_k the atoms:

        u_k = <d_k, p>
        threshold:  max(0, u_k - threshold) and max(0, -u_k - threshold)
        triangle:   max(0, u_k - mean over k of u_k)
        features:   means over pool x pool parts of the image

    There are no weights to train, so nothing to forget: with objective `ridge` the whole is exact
    class-incremental learning. The dictionary is made once, from the first rows that are trained:
    they are collected until there are `patches` of them (`patches_per_image` from every image),
    and until then all features are zero, which `ridge` leaves out. It is part of the
    state, and follows from these rows and the seed. `fit` makes it from images given by hand.

    The outputs are the features themselves where output_shape has as many as there are
    (`threshold`: 2 * filters * pool^2, `triangle`: filters * pool^2), as with `ridge` and
    `features` set so; else a trained linear layer takes them to output_shape.

    Deviations: triangle subtracts the mean product in place of the mean distance. Means, not sums,
    over the parts. Standardising a patch and whitening it are folded into one convolution and a
    division by the patch's deviation, which is exact.

    Example:
        >>> model = RandomPatches((3, 8, 8), (2 * 10 * 4,), filters=10, patch=3, patches=100)
        >>> images = torch.rand(20, 3, 8, 8)
        >>> model.fit(images)
        >>> model(images).shape
        torch.Size([20, 80])
    """

    dictionary: Tensor
    offset: Tensor
    collected: Tensor
    collected_patches: Tensor
    fit_seed: Tensor

    def __init__(
        self,
        input_shape: tuple[int, ...],
        output_shape: tuple[int, ...],
        *,
        filters: Annotated[
            int,
            Field(ge=1, description="atoms of the dictionary", json_schema_extra={"unit": "atoms"}),
        ] = 800,
        patch: Annotated[
            int, Field(ge=1, description="side of a patch", json_schema_extra={"unit": "pixels"})
        ] = 6,
        stride: Annotated[
            int,
            Field(ge=1, description="step between patches", json_schema_extra={"unit": "pixels"}),
        ] = 1,
        pool: Annotated[
            int,
            Field(
                ge=1,
                description="the image is cut into pool x pool parts, each with its own features",
                json_schema_extra={"unit": "parts"},
            ),
        ] = 2,
        activation: Annotated[
            Literal["threshold", "triangle"],
            Field(description="two-sided soft threshold, or what is above the mean of all atoms"),
        ] = "threshold",
        threshold: Annotated[
            float,
            Field(
                ge=0.0,
                description="what a product has to exceed, for `threshold`",
                json_schema_extra={"unit": "ratio"},
            ),
        ] = 0.25,
        patches: Annotated[
            int,
            Field(
                ge=2,
                description="patches that the dictionary is made from",
                json_schema_extra={"unit": "patches"},
            ),
        ] = 20_000,
        patches_per_image: Annotated[
            int,
            Field(
                ge=1,
                description="of them from each image; the fewer, the more images are waited for",
                json_schema_extra={"unit": "patches"},
            ),
        ] = 50,
        iterations: Annotated[
            int,
            Field(
                ge=0,
                description="rounds of k-means; 0: the atoms are patches themselves",
                json_schema_extra={"unit": "rounds"},
            ),
        ] = 10,
        contrast: Annotated[
            float,
            Field(
                gt=0.0,
                description="added to a patch's variance, so that flat patches stay small",
                json_schema_extra={"unit": "squared input"},
            ),
        ] = 1e-3,
        whitening: Annotated[
            float,
            Field(
                gt=0.0,
                description="added to the variances of the standardised patches in whitening",
                json_schema_extra={"unit": "ratio"},
            ),
        ] = 0.1,
    ) -> None:
        super().__init__()
        self.input_shape, self.output_shape = tuple(input_shape), tuple(output_shape)
        channels, spatial, self._has_channel_axis = split_channels(
            "random_patches", self.input_shape, 2
        )
        places = [(extent - patch) // stride + 1 for extent in spatial]
        if min(spatial) < patch or min(places) < pool:
            raise OperatorError(
                f"model random_patches: images of {list(spatial)} pixels have no {pool} x {pool} "
                f"parts of patches of {patch} pixels",
                remedy="choose a smaller patch, stride or pool",
            )
        self.patch, self.stride, self.pool = patch, stride, pool
        self.filters, self.activation, self.threshold = filters, activation, threshold
        self.patches_per_image, self.iterations = patches_per_image, iterations
        self.contrast, self.whitening = contrast, whitening
        #: length of the feature vector
        self.features = filters * pool**2 * (2 if activation == "threshold" else 1)
        length = channels * patch**2
        self.register_buffer("dictionary", torch.zeros(filters, channels, patch, patch))
        self.register_buffer("offset", torch.zeros(filters))
        self.register_buffer("collected_patches", torch.zeros(patches, length))
        self.register_buffer("collected", torch.zeros((), dtype=torch.int64))
        # of all random draws: forward passes leave torch's generator alone
        self.register_buffer("fit_seed", torch.randint(2**31, ()))
        self._collected, self._seed = 0, int(self.fit_seed)
        outputs = math.prod(output_shape)
        self.head = None if outputs == self.features else nn.Linear(self.features, outputs)
        self.register_load_state_dict_post_hook(_read_counters)  # type: ignore[no-untyped-call]

    @property
    def is_fitted(self) -> bool:
        """Whether the dictionary is made."""
        return self._collected == len(self.collected_patches)

    def forward(self, images: Tensor) -> Tensor:
        """(rows, *input_shape) -> (rows, *output_shape)."""
        check_input("random_patches", self.input_shape, images)
        maps = images if self._has_channel_axis else images.unsqueeze(1)
        if not self.is_fitted and self.training and len(maps):
            self._collect(maps.detach())
        features = self._features(maps)
        if self.head is not None:
            features = self.head(features)
        return features.reshape(images.shape[0], *self.output_shape)

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        """Make the dictionary anew from images (rows, *input_shape), 1 row or more."""
        maps = images if self._has_channel_axis else images.unsqueeze(1)
        self._take(maps, len(self.collected_patches), 0)

    @torch.no_grad()
    def _collect(self, images: Tensor) -> None:
        room = len(self.collected_patches) - self._collected
        self._take(images, min(room, len(images) * self.patches_per_image), self._collected)

    def _take(self, images: Tensor, count: int, start: int) -> None:
        """Keep patches behind the first `start`; make the dictionary when all are there."""
        generator = torch.Generator().manual_seed(self._seed + start)
        taken = patch_dictionary.random_patches(images, self.patch, count, generator)
        self.collected_patches[start : start + count] = taken
        self._collected = start + count
        self.collected.fill_(self._collected)
        if self.is_fitted:
            self._make_dictionary(generator)

    def _make_dictionary(self, generator: torch.Generator) -> None:
        """With W the whitening and m the mean of standardised patches, <d, W (s - m)> for s = (p -
        mean(p)) / deviation(p) is <(I - 1/n) W d, p> / deviation(p) - <W d, m>."""
        patches = patch_dictionary.standardised(self.collected_patches, self.contrast)
        mean, whiten = patch_dictionary.whitening(patches, self.whitening)
        whitened = (patches - mean) @ whiten
        found = patch_dictionary.atoms(whitened, self.filters, self.iterations, generator)
        rows = found @ whiten
        self.offset.copy_(rows @ mean)
        self.dictionary.copy_((rows - rows.mean(dim=1, keepdim=True)).view_as(self.dictionary))

    def _features(self, images: Tensor) -> Tensor:
        """(rows, features); on the CPU a few images at a time, whose maps stay in cache, and with
        channels innermost, where convolution and means are several times faster."""
        if not self.is_fitted:
            return self.offset.new_zeros(len(images), self.features)
        images, dictionary = images.to(self.dictionary.dtype), self.dictionary
        if images.device.type != "cpu":
            return self._features_at_once(images, dictionary)
        images = images.contiguous(memory_format=torch.channels_last)
        dictionary = dictionary.contiguous(memory_format=torch.channels_last)
        parts = torch.split(images, _IMAGES_AT_ONCE)
        return torch.cat([self._features_at_once(part, dictionary) for part in parts])

    def _features_at_once(self, images: Tensor, dictionary: Tensor) -> Tensor:
        products = functional.conv2d(images, dictionary, stride=self.stride)
        scale = self._deviations(images).reciprocal()
        products = torch.addcmul(-self.offset.view(-1, 1, 1), products, scale)
        if self.activation == "triangle":
            return self._pooled((products - products.mean(dim=1, keepdim=True)).relu_())
        beyond = functional.softshrink(products, self.threshold)
        return torch.cat(
            (self._pooled(beyond.clamp(min=0)), -self._pooled(beyond.clamp(max=0))), dim=1
        )

    def _pooled(self, maps: Tensor) -> Tensor:
        """(rows, filters, places, places) -> (rows, filters * pool^2)."""
        return functional.adaptive_avg_pool2d(maps, self.pool).flatten(1)

    def _deviations(self, images: Tensor) -> Tensor:
        """(rows, 1, places, places) of the patches."""
        squares = torch.stack((images.mean(dim=1), images.square().mean(dim=1)), dim=1)
        mean, square = torch.split(
            functional.avg_pool2d(squares, self.patch, self.stride), 1, dim=1
        )
        variance: Tensor = (square - mean.square()).clamp_min(0)
        return (variance + self.contrast).sqrt()


def _read_counters(module: nn.Module, _: Any) -> None:
    """After a state was loaded: what Python decides by."""
    assert isinstance(module, RandomPatches)
    module._collected, module._seed = int(module.collected), int(module.fit_seed)


COMPONENT = RandomPatches
