"""Blocks of a Hebbian network: from their options to modules."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from insitu.errors import OperatorError
from insitu.layers.block import HebbianBlock, pooling
from insitu.layers.convolution import HebbianConv1d, HebbianConv2d, HebbianConv3d
from insitu.layers.linear import HebbianLinear
from insitu.layers.padding import PaddingMode
from insitu.layers.rules.base import Rule
from insitu.models.hebbian_options import BlockOptions, PoolOptions

_CONVOLUTIONS = {1: HebbianConv1d, 2: HebbianConv2d, 3: HebbianConv3d}
_CIRCULAR_PADS = {1: nn.CircularPad1d, 2: nn.CircularPad2d, 3: nn.CircularPad3d}


class Stage(HebbianBlock):
    """A `HebbianBlock` that may flatten what comes in, and share what goes out.

    Args:
        flatten: whether places become channels.
        shares: inverse temperature of a softmax at the end, or None.
    """

    def __init__(
        self,
        layer: Any,
        *,
        power: float | None,
        pool: nn.Module | None,
        standardise: bool,
        flatten: bool,
        shares: float | None,
    ) -> None:
        super().__init__(layer, power=power, pool=pool, standardise=standardise)
        self._flatten, self._shares = flatten, shares

    def forward(self, rows: Tensor) -> Tensor:
        features = super().forward(rows.flatten(1) if self._flatten else rows)
        return features if self._shares is None else torch.softmax(features * self._shares, dim=1)


def make_stage(
    block: BlockOptions, shape: tuple[int, ...], *, width: float, padding_mode: PaddingMode | None
) -> Stage:
    """The block for maps of `shape`, (channels, *places), with weights from torch's generator.

    Args:
        width: factor on the number of kernels, except where the rule has one a label.
        padding_mode: in place of the block's own, unless None.
    """
    rule = block.rule.make()
    kernels = block.kernels if rule.needs_labels else max(1, round(width * block.kernels))
    mode: PaddingMode = padding_mode or block.padding_mode
    triangle = block.activation == "triangle"
    return Stage(
        _layer(block, shape, kernels, rule, mode),
        power=block.activation_parameter if triangle else None,
        pool=None if block.pool is None else _pool(block.pool, len(shape) - 1, mode),
        standardise=block.standardise,
        flatten=block.kernel_size is None,
        shares=block.activation_parameter if block.activation == "softmax" else None,
    )


def _layer(
    block: BlockOptions, shape: tuple[int, ...], kernels: int, rule: Rule, mode: PaddingMode
) -> nn.Module:
    drawn: dict[str, Any] = {
        "initial_weights": block.initial_weights,
        "radius": block.radius,
        "activations": torch.bfloat16 if block.precision == "bfloat16" else None,
    }
    rates = block.learning_rates()
    if block.kernel_size is None:
        inputs = torch.Size(shape).numel()
        return HebbianLinear(inputs, kernels, rule, rates, **drawn)
    if len(shape) == 1:
        raise OperatorError(
            f"kernel_size is {block.kernel_size}, and what comes in has no places",
            allowed="null: a fully connected layer",
            remedy="set the model's `dimensions`, if the input does have places",
        )
    reach = block.dilation * (block.kernel_size - 1)
    return _CONVOLUTIONS[len(shape) - 1](
        shape[0],
        kernels,
        block.kernel_size,
        rule,
        rates,
        stride=block.stride,
        padding=reach // 2 if block.padding is None else block.padding,
        padding_mode=mode,
        dilation=block.dilation,
        groups=block.groups,
        **drawn,
    )


def _pool(options: PoolOptions, dimensions: int, mode: PaddingMode) -> nn.Module:
    """A pool; of a periodic field its windows go on at the other side, too."""
    if mode != "circular" or not options.padding:
        return pooling(
            options.kind,
            dimensions,
            options.size,
            stride=options.stride,
            padding=options.padding,
        )
    plain = pooling(options.kind, dimensions, options.size, stride=options.stride)
    return nn.Sequential(_CIRCULAR_PADS[dimensions](options.padding), plain)


def shape_behind(stage: Stage, shape: tuple[int, ...], name: str) -> tuple[int, ...]:
    """What the stage makes of maps of `shape`.

    Raises:
        OperatorError: it cannot take them; `name` says which block it is.
    """
    was_training = stage.training
    try:
        with torch.no_grad():
            maps: Tensor = stage.eval()(torch.zeros(1, *shape))
    except OperatorError as error:
        raise OperatorError(
            f"{name}: {error.message}", allowed=error.allowed, remedy=error.remedy
        ) from None
    except RuntimeError as error:
        raise OperatorError(
            f"{name} cannot take maps of {list(shape)}: {' '.join(str(error).split())}",
            remedy="choose smaller kernels and pools, or fewer blocks",
        ) from None
    stage.train(was_training)
    return tuple(maps.shape[1:])
