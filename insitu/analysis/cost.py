"""What a model costs: parameters and floating-point operations of every layer.

Counted by torch's own `FlopCounterMode` in one forward pass: matrix products, convolutions and
attention, a multiplication and an addition counting as two; activations, biases and normalisation
are not counted, being small. A training step costs about three times the forward pass: once more
for the gradients of the weights, and once more for those of the layers' inputs.

torch's counter sees nothing of the fused kernels in which recurrent layers run (and only sometimes
their pieces), so `RNN`, `GRU` and `LSTM` are counted by formula. With g gates (1, 3, 4), batch b,
T steps, h hidden units, input size i, and outputs of size p (h, or `proj_size`), a layer takes in
one direction

    2 b T g h (i + p)   and, with a projection,   2 b T h p

more; the layers above the first have i = p times the number of directions. That is what the same
cells cost in a loop.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.hooks import RemovableHandle

from insitu.evaluation import evaluation_mode

_GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}


@dataclass(frozen=True)
class LayerCost:
    """One module without further modules inside, or what a module does beside those inside it.

    Args:
        name: its place in the model; empty for the model itself.
        kind: its class.
        parameters: numbers that it learns or holds fixed; shared ones count where first seen.
        flops: floating-point operations of one forward pass.
    """

    name: str
    kind: str
    parameters: int
    flops: int


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

    def as_dict(self) -> dict[str, Any]:
        """Plain data that JSON can hold."""
        return {
            "parameters": self.parameters,
            "flops": self.flops,
            "layers": [vars(layer) for layer in self.layers],
        }


def model_cost(model: nn.Module, forward: Callable[[], Any]) -> ModelCost:
    """Count one forward pass.

    Args:
        model: in evaluation mode meanwhile.
        forward: runs the model once, on as many rows as are to be counted.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> cost = model_cost(model, lambda: model(torch.zeros(1, 3)))
        >>> [(layer.name, layer.parameters, layer.flops) for layer in cost.layers]
        [('0', 16, 24), ('2', 10, 16)]
    """
    counter = FlopCounterMode(display=False)
    ledger = _Ledger(model, counter)
    hooks = ledger.watch()
    try:
        with torch.no_grad(), evaluation_mode(model), counter:
            forward()
            ledger.settle()
    finally:
        for hook in hooks:
            hook.remove()
    return ModelCost(tuple(_layers(model, ledger.flops)))


class _Ledger:
    """Puts what the counter counts to the innermost module that runs; else to the model."""

    def __init__(self, model: nn.Module, counter: FlopCounterMode) -> None:
        self.flops: dict[nn.Module, int] = defaultdict(int)
        self._model = model
        self._counter = counter
        self._running: list[nn.Module] = []
        self._settled = 0

    def watch(self) -> list[RemovableHandle]:
        hooks = []
        for module in self._model.modules():
            hooks.append(module.register_forward_pre_hook(self._enter))
            hooks.append(module.register_forward_hook(self._leave))
        return hooks

    def _enter(self, module: nn.Module, _inputs: tuple[Any, ...]) -> None:
        self.settle()
        self._running.append(module)

    def _leave(self, module: nn.Module, inputs: tuple[Any, ...], _output: Any) -> None:
        self.settle()
        self._running.pop()
        if isinstance(module, nn.RNNBase):
            self.flops[module] += recurrent_flops(module, inputs[0])

    def settle(self) -> None:
        """Book what was counted since the last time."""
        total = self._counter.get_total_flops()
        innermost = self._running[-1] if self._running else self._model
        if not isinstance(innermost, nn.RNNBase):
            self.flops[innermost] += total - self._settled
        self._settled = total


def recurrent_flops(module: nn.RNNBase, inputs: Any) -> int:
    """Operations of the matrix products of a recurrent layer, see the module's page."""
    if isinstance(inputs, Tensor):
        tokens = inputs.numel() // inputs.shape[-1]
    else:  # a packed sequence knows how many steps there really are
        tokens = inputs.data.shape[0]
    hidden, out = module.hidden_size, module.proj_size or module.hidden_size
    directions = 2 if module.bidirectional else 1
    flops, size = 0, module.input_size
    for _ in range(module.num_layers):
        products = _GATES[module.mode] * hidden * (size + out)
        if module.proj_size:
            products += hidden * out
        flops += 2 * tokens * directions * products
        size = out * directions
    return flops


def _layers(model: nn.Module, flops: Mapping[nn.Module, int]) -> Iterable[LayerCost]:
    seen: set[Tensor] = set()
    for name, module in model.named_modules():
        own = {p for p in module.parameters(recurse=False) if p not in seen}
        seen |= own
        counted = flops.get(module, 0)
        if own or counted:
            parameters = sum(p.numel() for p in own)
            yield LayerCost(name, type(module).__name__, parameters, counted)
