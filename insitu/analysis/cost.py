"""What a model costs: parameters and floating-point operations of every layer.

Counted by torch's own `FlopCounterMode` in one forward and one backward pass: matrix products,
convolutions and attention, a multiplication and an addition counting as two; activations, biases
and normalisation are not counted, being small. A layer's backward pass costs its forward pass once
more for the gradient of its weights, unless they are frozen, and once more for that of its inputs,
unless nothing before it learns: so the first layer's is the cheaper one. What the optimizer does is
not counted.

Recurrent layers, of which torch's counter sees nothing, are counted by formula, see
`insitu.analysis.recurrent`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from insitu.analysis.operations import Ledger
from insitu.evaluation import evaluation_mode


@dataclass(frozen=True)
class LayerCost:
    """One module without further modules inside, or what a module does beside those inside it.

    Args:
        name: its place in the model; empty for the model itself.
        kind: its class.
        parameters: numbers that it learns or holds fixed; shared ones count where first seen.
        flops: floating-point operations of one forward pass.
        backward_flops: those of the gradients of all that learns, after it.
    """

    name: str
    kind: str
    parameters: int
    flops: int
    backward_flops: int


@dataclass(frozen=True)
class ModelCost:
    """The layers in the order of the model, and their sums."""

    layers: tuple[LayerCost, ...]

    @property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers)

    @property
    def flops(self) -> int:
        return sum(layer.flops for layer in self.layers)

    @property
    def backward_flops(self) -> int:
        return sum(layer.backward_flops for layer in self.layers)

    def as_dict(self) -> dict[str, Any]:
        """Plain data that JSON can hold."""
        return {
            "parameters": self.parameters,
            "flops": self.flops,
            "backward_flops": self.backward_flops,
            "layers": [vars(layer) for layer in self.layers],
        }


def model_cost(model: nn.Module, forward: Callable[[], Any]) -> ModelCost:
    """Count one forward pass, and the backward pass to the gradients of all that learns.

    Args:
        model: in evaluation mode meanwhile; its gradients stay as they are.
        forward: runs the model once, on as many rows as are to be counted, and gives its outputs.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> cost = model_cost(model, lambda: model(torch.zeros(1, 3)))
        >>> [(layer.name, layer.parameters, layer.flops) for layer in cost.layers]
        [('0', 16, 24), ('2', 10, 16)]
        >>> [layer.backward_flops for layer in cost.layers]
        [24, 32]
    """
    counter = FlopCounterMode(display=False)
    ledger = Ledger(model, counter)
    hooks = ledger.watch()
    try:
        with torch.enable_grad(), evaluation_mode(model), counter:
            outputs = forward()
            ledger.settle()
            ledger.backward(outputs)
    finally:
        for hook in hooks:
            hook.remove()
    return ModelCost(tuple(_layers(model, ledger.flops, ledger.backward_flops)))


def _layers(
    model: nn.Module, flops: Mapping[nn.Module, int], backward_flops: Mapping[nn.Module, int]
) -> Iterable[LayerCost]:
    seen: set[Tensor] = set()
    for name, module in model.named_modules():
        own = {p for p in module.parameters(recurse=False) if p not in seen}
        seen |= own
        counted = flops.get(module, 0), backward_flops.get(module, 0)
        if own or any(counted):
            parameters = sum(p.numel() for p in own)
            yield LayerCost(name, type(module).__name__, parameters, *counted)
