"""Floating-point operations of recurrent layers, by formula.

torch's counter sees nothing of the fused kernels in which recurrent layers run (and only sometimes
their pieces), so `RNN`, `GRU` and `LSTM` are counted by formula. With g gates (1, 3, 4), batch b,
T steps, h hidden units, input size i, and outputs of size p (h, or `proj_size`), a layer takes in
one direction

    2 b T g h (i + p)   and, with a projection,   2 b T h p

more; the layers above the first have i = p times the number of directions. The backward pass takes
the same for the weights, and for the inputs 2 b T g h i (where their gradient is asked for) +
2 b (T - 1) g h p + 2 b T h p. That is what the same cells cost in a loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor, nn

_GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}


class _Products(NamedTuple):
    """Operations of one layer's matrix products, all steps and directions together."""

    of_inputs: int
    of_states: int
    of_projection: int


def recurrent_flops(module: nn.RNNBase, inputs: Any) -> int:
    """Operations of a forward pass.

    Args:
        inputs: of the module: a tensor, or a packed sequence.
    """
    tokens, _ = _counts(module, inputs)
    return sum(sum(layer) for layer in _products(module, tokens))


def recurrent_backward_flops(module: nn.RNNBase, inputs: Any) -> int:
    """Operations of the gradients of all weights (of none, where all are frozen) and inputs."""
    tokens, sequences = _counts(module, inputs)
    data = inputs if isinstance(inputs, Tensor) else inputs.data
    learns = any(parameter.requires_grad for parameter in module.parameters())
    flops = 0
    for number, layer in enumerate(_products(module, tokens)):
        to_inputs = data.requires_grad or (number > 0 and learns)
        flops += sum(layer) if learns else 0
        flops += layer.of_inputs if to_inputs else 0
        if learns or data.requires_grad:
            # a first step has no state before it whose gradient anybody asks for
            flops += layer.of_states * (tokens - sequences) // tokens + layer.of_projection
    return flops


def _counts(module: nn.RNNBase, inputs: Any) -> tuple[int, int]:
    """Steps of all sequences together, and how many sequences there are."""
    if not isinstance(inputs, Tensor):  # a packed sequence knows how many steps there really are
        return inputs.data.shape[0], int(inputs.batch_sizes[0])
    tokens = inputs.numel() // inputs.shape[-1]
    if inputs.dim() == 2:
        return tokens, 1
    return tokens, inputs.shape[0 if module.batch_first else 1]


def _products(module: nn.RNNBase, tokens: int) -> Iterator[_Products]:
    """Those of every layer, the lowest first."""
    hidden, out = module.hidden_size, module.proj_size or module.hidden_size
    directions = 2 if module.bidirectional else 1
    each = 2 * tokens * directions
    gates, size = _GATES[module.mode] * hidden, module.input_size
    for _ in range(module.num_layers):
        projection = hidden * out if module.proj_size else 0
        yield _Products(each * gates * size, each * gates * out, each * projection)
        size = out * directions
