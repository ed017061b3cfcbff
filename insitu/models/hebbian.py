"""A deep network of Hebbian layers with a head that is trained by gradient."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from insitu.errors import OperatorError
from insitu.layers.captured_pass import CapturedPass
from insitu.layers.hebbian import HebbianLayer
from insitu.layers.padded_rows import PaddedRows
from insitu.layers.padding import PaddingMode
from insitu.models.hebbian_blocks import make_stage, shape_behind
from insitu.models.hebbian_heads import PerPlace, Scale
from insitu.models.hebbian_networks import PublishedNetwork, published_blocks
from insitu.models.hebbian_options import BlockOptions
from insitu.models.shapes import check_input, split_channels

_LAYOUTS = {2: torch.channels_last, 3: torch.channels_last_3d}
Head = Literal["auto", "linear", "per_place", "scale", "none"]


class Hebbian(nn.Module):
    """Blocks of standardisation, Hebbian layer, Triangle and pool; features; a head.

    Journé et al., "Hebbian deep learning without feedback" (ICLR 2023). The kernels learn from what
    passes through, without a gradient, in the same step in which the optimizer trains the head; see
    `insitu/docs/hebbian.md`. Takes vectors, and images and fields in one to three dimensions, with
    or without a channel axis.

    Who learns when:

    - `consecutive`: all blocks at once, for ever or for `plastic_updates` updates each;
    - `successive`: the first block for `plastic_updates` updates, then the second, and so on.

    A block whose `plastic` is false never learns, whatever the order.

    A block that has had its updates is frozen: kernels and statistics stay, and a row's features no
    longer depend on its neighbours. Who is plastic follows from the layers' own counts of updates,
    which are in the state; they are read once when a block may be through, not in every step.

    Head, by default (`auto`): a linear map at every place where output_shape is a field of the
    input's size, as with `reconstruct`; no more than a scale where it has as many numbers as there
    are features, as with `ridge` and `nearest_class_mean`; else a linear layer.

    Deviations: features are normalised within a row by default (`normalise_features`), since
    kernels start with norms of 25 and end at 1, and a head that learns meanwhile would follow that.

    Example:
        >>> block = BlockOptions(kernels=8, kernel_size=3, pool={"kind": "max", "size": 2})
        >>> Hebbian((3, 8, 8), (10,), blocks=(block,))(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        output_shape: tuple[int, ...],
        *,
        network: Annotated[
            PublishedNetwork | None,
            Field(description="a published network; or null, and `blocks`"),
        ] = None,
        blocks: Annotated[
            tuple[BlockOptions, ...],
            Field(description="the blocks, each a mapping; see insitu/docs/hebbian.md"),
        ] = (),
        width: Annotated[
            float,
            Field(
                gt=0.0,
                description="factor on the kernels of every block",
                json_schema_extra={"unit": "ratio"},
            ),
        ] = 1.0,
        padding_mode: Annotated[
            PaddingMode | None,
            Field(description="of all blocks, in place of their own; circular: periodic fields"),
        ] = None,
        dimensions: Annotated[
            Literal[0, 1, 2, 3] | None,
            Field(
                description="axes with places; null: 0 of a vector, 3 of four axes, else 2",
                json_schema_extra={"unit": "axes"},
            ),
        ] = None,
        order: Annotated[
            Literal["consecutive", "successive"],
            Field(description="all blocks learn at once, or one after the other"),
        ] = "consecutive",
        plastic_updates: Annotated[
            int | None,
            Field(
                ge=0,
                description="updates of a block before it is frozen; null: it never is",
                json_schema_extra={"unit": "updates"},
            ),
        ] = None,
        normalise_features: Annotated[
            bool,
            Field(description="features of a row less their mean, by their deviation"),
        ] = True,
        dropout: Annotated[
            float,
            Field(
                ge=0.0,
                lt=1.0,
                description="of the features before a linear head",
                json_schema_extra={"unit": "ratio"},
            ),
        ] = 0.0,
        head: Annotated[Head, Field(description="what takes features to the output")] = "auto",
        padded_rows: Annotated[
            int | None,
            Field(
                ge=1,
                description="rows that a batch in training is padded to, or a multiple of it, so "
                "that shapes never change; padding teaches nothing. null: as batches come",
                json_schema_extra={"unit": "rows"},
            ),
        ] = None,
        channels_last: Annotated[
            bool,
            Field(
                description="images and volumes with the channels of a place side by side in "
                "memory: faster, and the same up to rounding"
            ),
        ] = True,
    ) -> None:
        super().__init__()
        self.input_shape, self.output_shape = tuple(input_shape), tuple(output_shape)
        chosen = _chosen(network, blocks)
        self._maps_shape = _as_maps(self.input_shape, dimensions)
        self.blocks = nn.ModuleList()
        shape = self._maps_shape
        for index, block in enumerate(chosen):
            name = f"model hebbian: block {index}"
            stage = _named(name, make_stage, block, shape, width=width, padding_mode=padding_mode)
            shape = shape_behind(stage, shape, name)
            self.blocks.append(stage)
        self._layout = _LAYOUTS.get(len(self._maps_shape) - 1) if channels_last else None
        if self._layout is not None:
            self.blocks.to(memory_format=self._layout)  # type: ignore[call-overload]
        #: (channels, *places) behind the last block
        self.maps_shape = shape
        #: length of the feature vector
        self.features = math.prod(shape)
        self.normalise_features = normalise_features
        self.head = self._make_head(head, dropout)
        self._layers = tuple(part for part in self.modules() if isinstance(part, HebbianLayer))
        self._padded = None if padded_rows is None else PaddedRows(self.blocks, padded_rows)
        self._captured: CapturedPass | None = None
        if order == "successive" and plastic_updates is None:
            raise OperatorError(
                "model hebbian: order is successive, and plastic_updates null",
                allowed="the number of updates after which the next block begins",
            )
        self._successive = order == "successive"
        # of each block; None: no end
        self._plastic_updates = [plastic_updates if block.plastic else 0 for block in chosen]
        self._frozen = [False] * len(self._layers)
        # updates in which nobody can come to the end of his own; None: no end
        self._certain_updates: int | None = None
        self.follow_counts()
        self.register_load_state_dict_post_hook(_follow_counts)  # type: ignore[no-untyped-call]

    def forward(self, fields: Tensor) -> Tensor:
        """(rows, *input_shape) -> (rows, *output_shape)."""
        check_input("hebbian", self.input_shape, fields)
        maps = fields.reshape(fields.shape[0], *self._maps_shape)
        with torch.autocast(fields.device.type, enabled=False):  # kernels learn in float32
            if self._padded is None or not self.training:
                maps = self._through_blocks(maps)
            else:
                maps = self._padded(self._through_blocks, maps)
        maps = maps.to(fields.dtype)  # a block's activations may be in bfloat16
        if self.normalise_features:
            flat = functional.layer_norm(maps.flatten(1), (self.features,))
            maps = flat.view(maps.shape)
        outputs: Tensor = self.head(maps)
        return outputs.reshape(fields.shape[0], *self.output_shape)

    def capture_passes(self) -> None:
        """From now on passes that blocks learn from are CUDA graphs, where they are on a GPU."""
        self._captured = CapturedPass(self.blocks)

    def _through_blocks(self, maps: Tensor) -> Tensor:
        if self._layout is not None:
            maps = maps.contiguous(memory_format=self._layout)
        return (
            self._in_turn(maps) if self._captured is None else self._captured(self._in_turn, maps)
        )

    def _in_turn(self, maps: Tensor) -> Tensor:
        for block in self.blocks:
            maps = block(maps)
        return maps

    def _make_head(self, kind: Head, dropout: float) -> nn.Module:
        """The head of that kind; features come to it as maps."""
        outputs, places = math.prod(self.output_shape), self._maps_shape[1:]
        if kind == "auto":
            same_field = len(self.output_shape) == len(self.input_shape) > 1 and places
            if same_field and self.output_shape[-len(places) :] == places:
                kind = "per_place"
            else:
                kind = "scale" if outputs == self.features else "linear"
        if kind == "per_place":
            return PerPlace(self.maps_shape, outputs // math.prod(places), places)
        if kind == "linear":
            linear = nn.Linear(self.features, outputs)
            return nn.Sequential(nn.Flatten(), nn.Dropout(dropout), linear)
        if outputs != self.features:
            raise OperatorError(
                f"model hebbian: head is {kind}, and {self.features} features shall become "
                f"{list(self.output_shape)}",
                allowed="as many outputs as features, or a linear head",
                remedy=f"set the objective's `features` to {self.features}",
            )
        return Scale() if kind == "scale" else nn.Identity()

    def after_update(self) -> None:
        """Called by `HebbianUpdate.step`: a block that has had its updates is frozen at once.

        A layer moves at most once in each, so nothing can change before as many as are left; then
        the layers are asked again, since steps in which nothing was recorded do not count.
        """
        if self._certain_updates is not None:
            self._certain_updates -= 1
            if self._certain_updates <= 0:
                self.follow_counts()

    def follow_counts(self) -> None:
        """Decide by the layers' counts who is plastic and who is frozen; waits for the device."""
        wanted = self._plastic_updates
        if all(updates is None for updates in wanted):
            return
        left = [
            None if updates is None else max(0, updates - int(layer.updates))
            for updates, layer in zip(wanted, self._layers, strict=True)
        ]
        current = next((index for index, count in enumerate(left) if count != 0), len(left))
        self._frozen = [count == 0 for count in left]
        for index, layer in enumerate(self._layers):
            waits = self._successive and index > current
            layer.plastic = not self._frozen[index] and not waits
        plastic = [layer.plastic for layer in self._layers]
        to_come = [c for c, learns in zip(left, plastic, strict=True) if c and learns]
        self._certain_updates = min(to_come, default=None)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """As of any module, but frozen blocks stay in evaluation mode."""
        super().train(mode)
        for block, frozen in zip(self.blocks, self._frozen, strict=True):
            if frozen:
                block.eval()
        return self


def _chosen(
    network: PublishedNetwork | None, blocks: tuple[BlockOptions, ...]
) -> tuple[BlockOptions, ...]:
    if (network is None) == (not blocks):
        raise OperatorError(
            f"model hebbian: network is {network!r}, and there are {len(blocks)} blocks",
            allowed="a network by name, or 1 block or more",
        )
    return blocks if network is None else published_blocks(network)


def _as_maps(shape: tuple[int, ...], dimensions: int | None) -> tuple[int, ...]:
    """(channels, *places) of an input."""
    if dimensions is None:
        dimensions = {0: 0, 1: 0, 4: 3}.get(len(shape), 2)
    if dimensions == 0:
        return (math.prod(shape),)
    channels, places, _ = split_channels("hebbian", shape, dimensions)
    return (channels, *places)


def _named(name: str, make: Any, *arguments: Any, **options: Any) -> Any:
    """What `make` gives; where it refuses, the error says of which block."""
    try:
        return make(*arguments, **options)
    except OperatorError as error:
        raise OperatorError(
            f"{name}: {error.message}", allowed=error.allowed, remedy=error.remedy
        ) from None


def _follow_counts(module: nn.Module, _: Any) -> None:
    """After a state was loaded."""
    assert isinstance(module, Hebbian)
    module.follow_counts()


COMPONENT = Hebbian
