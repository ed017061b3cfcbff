"""Sums of powers of per-sample gradients of one layer, from what went in and what came back.

A layer was called once on rows n = 1..N with inputs x_n, and the backward pass gave the gradients
d_n of its outputs. The gradient of its weights for row n is a sum over positions t (of a sequence
or an image; one where there are none), g_n = sum_t d_nt x_nt^T, so

    linear, one position:    sum_n |g_n|^p = (|d|^p)^T |x|^p           two small powers, one product
    linear, many positions:  g_n = d_n^T x_n                            one batched product
    convolution:             g_n = d_n patches(x_n)^T                   the same on the patches
    normalisation:           g_n = sum_t d_nt * normalised(x_nt)        one product

None of it is an approximation. Products over many positions are made for a chunk of rows at a
time, so that the gradients of single rows never need more than a given workspace.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

#: larger chunks of rows leave the processor's caches and are slower, not faster
_LARGEST_CHUNK_BYTES = {"cpu": 2 * 2**20}

LayerSums = Callable[[nn.Module, Tensor, Tensor, int, int], tuple[Tensor, Tensor]]


def _powers_over_rows(gradients: Tensor, power: int) -> Tensor:
    """sum_n |g_n|^p of (rows, ...) gradients."""
    if power == 1:
        return gradients.abs().sum(0)
    return gradients.square().sum(0)


def _bias_sums(gradients: Tensor, power: int) -> Tensor:
    """Of (rows, channels, positions)."""
    return _powers_over_rows(gradients.sum(2), power)


def _linear(
    layer: nn.Module, inputs: Tensor, gradients: Tensor, power: int, workspace_bytes: int
) -> tuple[Tensor, Tensor]:
    if inputs.dim() == 2:
        if power == 1:
            return gradients.abs().T @ inputs.abs(), gradients.abs().sum(0)
        squares = gradients.square()
        return squares.T @ inputs.square(), squares.sum(0)
    inputs, gradients = inputs.flatten(1, -2), gradients.flatten(1, -2)
    weight = torch.zeros(gradients.shape[2], inputs.shape[2]).to(inputs)
    chunk = _chunk_rows(inputs, weight.numel(), workspace_bytes)
    for start in range(0, len(inputs), chunk):
        rows = slice(start, start + chunk)
        weight += _powers_over_rows(gradients[rows].transpose(1, 2) @ inputs[rows], power)
    return weight, _bias_sums(gradients.transpose(1, 2), power)


def _convolution(
    layer: nn.Module, inputs: Tensor, gradients: Tensor, power: int, workspace_bytes: int
) -> tuple[Tensor, Tensor]:
    assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    groups, outputs = layer.groups, layer.out_channels
    entries = layer.in_channels // groups * prod(layer.kernel_size)
    gradients = gradients.reshape(len(inputs), groups, outputs // groups, -1)
    weight = torch.zeros(outputs, entries).to(inputs)
    row_entries = weight.numel() + groups * entries * gradients.shape[3]
    chunk = _chunk_rows(inputs, row_entries, workspace_bytes)
    for start in range(0, len(inputs), chunk):
        rows = slice(start, start + chunk)
        found = patches(layer, inputs[rows]).reshape(-1, groups, entries, gradients.shape[3])
        per_row = gradients[rows] @ found.transpose(2, 3)
        weight += _powers_over_rows(per_row, power).reshape(outputs, entries)
    bias = _bias_sums(gradients.flatten(1, 2), power)
    return weight.reshape(layer.weight.shape), bias


def patches(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, inputs: Tensor) -> Tensor:
    """What every position of the output sees: (rows, channels, *kernel, *positions), a view.

    Example:
        >>> layer = nn.Conv1d(1, 1, 3, stride=2, dilation=2, padding=1)
        >>> patches(layer, torch.arange(1.0, 6.0).reshape(1, 1, 5))[0, 0].T
        tensor([[0., 2., 4.],
                [2., 4., 0.]])
    """
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = functional.pad(inputs, layer._reversed_padding_repeated_twice, mode=mode).contiguous()
    spans = [
        dilation * (kernel - 1) + 1
        for kernel, dilation in zip(layer.kernel_size, layer.dilation, strict=True)
    ]
    positions = [
        (size - span) // stride + 1
        for size, span, stride in zip(padded.shape[2:], spans, layer.stride, strict=True)
    ]
    rows, channels, *steps = padded.stride()
    taps = [step * dilation for step, dilation in zip(steps, layer.dilation, strict=True)]
    moves = [step * stride for step, stride in zip(steps, layer.stride, strict=True)]
    shape = (*padded.shape[:2], *layer.kernel_size, *positions)
    return padded.as_strided(shape, (rows, channels, *taps, *moves))


def _batch_norm(
    layer: nn.Module, inputs: Tensor, gradients: Tensor, power: int, workspace_bytes: int
) -> tuple[Tensor, Tensor]:
    """In evaluation mode, by running statistics."""
    assert isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)
    normalised = functional.batch_norm(inputs, layer.running_mean, layer.running_var, eps=layer.eps)
    return _of_channels(normalised, gradients, power)


def _group_norm(
    layer: nn.Module, inputs: Tensor, gradients: Tensor, power: int, workspace_bytes: int
) -> tuple[Tensor, Tensor]:
    assert isinstance(layer, nn.GroupNorm)
    return _of_channels(
        functional.group_norm(inputs, layer.num_groups, eps=layer.eps), gradients, power
    )


def _of_channels(normalised: Tensor, gradients: Tensor, power: int) -> tuple[Tensor, Tensor]:
    shape = (*gradients.shape[:2], -1)
    gradients = gradients.reshape(shape)
    scale = _bias_sums(gradients * normalised.reshape(shape), power)
    return scale, _bias_sums(gradients, power)


def _layer_norm(
    layer: nn.Module, inputs: Tensor, gradients: Tensor, power: int, workspace_bytes: int
) -> tuple[Tensor, Tensor]:
    assert isinstance(layer, nn.LayerNorm)
    shape = (len(inputs), -1, *layer.normalized_shape)
    normalised = functional.layer_norm(inputs, layer.normalized_shape, eps=layer.eps)
    gradients = gradients.reshape(shape)
    scale = _powers_over_rows((gradients * normalised.reshape(shape)).sum(1), power)
    return scale, _powers_over_rows(gradients.sum(1), power)


def _chunk_rows(inputs: Tensor, row_entries: int, workspace_bytes: int) -> int:
    bound = min(workspace_bytes, _LARGEST_CHUNK_BYTES.get(inputs.device.type, workspace_bytes))
    return max(1, bound // (row_entries * inputs.element_size()))


#: by the layer's exact class, since a subclass may compute something else: (layer, inputs,
#: gradients of outputs, power, workspace_bytes) -> sums for `weight` and `bias`
LAYERS: Mapping[type[nn.Module], LayerSums] = {
    nn.Linear: _linear,
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.Conv3d: _convolution,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.BatchNorm3d: _batch_norm,
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
}
