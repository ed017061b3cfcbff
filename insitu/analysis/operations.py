"""Whose floating-point operations those are that torch counts: forward and backward, by module."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.utils.rnn import PackedSequence
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.hooks import RemovableHandle

from insitu.analysis.recurrent import recurrent_backward_flops, recurrent_flops


class Ledger:
    """Puts what the counter counts to the innermost module that runs; else to the model.

    Backward, operations are those of the module that ran when their node of the graph was made.

    Args:
        counter: entered by the caller, around `forward` and `backward`.
    """

    def __init__(self, model: nn.Module, counter: FlopCounterMode) -> None:
        self.flops: dict[nn.Module, int] = defaultdict(int)
        self.backward_flops: dict[nn.Module, int] = defaultdict(int)
        self._model = model
        self._counter = counter
        self._running: list[nn.Module] = []
        self._settled = 0
        self._maker: dict[Node, nn.Module] = {}

    def watch(self) -> list[RemovableHandle]:
        """Look on at every module; the handles end it."""
        hooks = []
        for module in self._model.modules():
            hooks.append(module.register_forward_pre_hook(self._enter))
            hooks.append(module.register_forward_hook(self._leave))
        return hooks

    @property
    def _innermost(self) -> nn.Module:
        return self._running[-1] if self._running else self._model

    def _enter(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.settle()
        self._claim(inputs)  # what led to them was made by whoever calls the module
        self._running.append(module)

    def _leave(self, module: nn.Module, inputs: tuple[Any, ...], outputs: Any) -> None:
        self.settle()
        self._claim(outputs)
        self._running.pop()
        if isinstance(module, nn.RNNBase):
            self.flops[module] += recurrent_flops(module, inputs[0])
            if any(tensor.requires_grad for tensor in _tensors(outputs)):
                self.backward_flops[module] += recurrent_backward_flops(module, inputs[0])

    def settle(self) -> None:
        """Book what was counted since the last time."""
        total = self._counter.get_total_flops()
        if not isinstance(self._innermost, nn.RNNBase):
            self.flops[self._innermost] += total - self._settled
        self._settled = total

    def backward(self, outputs: Any) -> None:
        """Run back from the outputs to all that learns, and book what each module's share is."""
        self._claim(outputs)
        ends = [tensor for tensor in _tensors(outputs) if tensor.requires_grad]
        weights = [p for p in self._model.parameters() if p.requires_grad]
        if not ends or not weights:
            return
        for node, module in self._maker.items():
            node.register_prehook(lambda _: self._skip())
            node.register_hook(self._booking(module))
        ones = [torch.ones_like(end) for end in ends]
        torch.autograd.grad(ends, weights, ones, allow_unused=True)

    def _skip(self) -> None:
        self._settled = self._counter.get_total_flops()

    def _booking(self, module: nn.Module) -> Callable[[Any, Any], None]:
        def book(_inputs: Any, _outputs: Any) -> None:
            if not isinstance(module, nn.RNNBase):
                self.backward_flops[module] += self._counter.get_total_flops() - self._settled
            self._skip()

        return book

    def _claim(self, made: Any) -> None:
        """All nodes that lead to these tensors and are nobody's are the running module's."""
        waiting = [tensor.grad_fn for tensor in _tensors(made)]
        while waiting:
            node = waiting.pop()
            if node is not None and node not in self._maker:
                self._maker[node] = self._innermost
                waiting += [each for each, _ in node.next_functions]


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, PackedSequence):
        yield value.data
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _tensors(each)
