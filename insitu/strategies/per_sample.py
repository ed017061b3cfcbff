"""Sums over samples of powers of each sample's own gradient, exactly, in about one backward pass.

For values v_n of rows n = 1..N (a loss, the length of an output) and weights w,

    sum_n |d v_n / d w|^p,   p = 2 for a Fisher information, p = 1 for a mean absolute sensitivity

One backward pass of sum_n v_n to the outputs of all layers, but not to their weights, gives what
`insitu.strategies.per_sample_layers` needs, since no row's value depends on another row. It is
taken when every trainable parameter belongs to one plain layer of a known class, that layer is
called once, and the graph of the values uses the parameter once; the graph is looked at, so
tied weights are found out. For any other model the gradients are taken one a sample, by vmap where
its operations allow that, else in a loop.

The module must treat its rows independently in evaluation mode, as all do whose layers do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.func import functional_call, grad, vmap

from insitu.errors import InternalError
from insitu.evaluation import evaluation_mode
from insitu.strategies.per_sample_layers import LAYERS

#: a module and some rows, by name with one row a sample -> (rows,) values
Values = Callable[[nn.Module, Mapping[str, Tensor]], Tensor]

ROWS_AT_ONCE = 512
_PREFIX = "module."


class _Call(NamedTuple):
    layer: nn.Module
    inputs: Tensor
    output: GradientEdge
    rows: int


def sums_of_powers(
    module: nn.Module,
    values: Values,
    rows: Mapping[str, Tensor],
    *,
    power: int,
    workspace_bytes: int = 256 * 2**20,
) -> dict[str, Tensor]:
    """sum_n |d v_n / d w|^p by the name of every trainable parameter, of its shape and dtype.

    Args:
        module: the plain module (not a compiled wrapper); left in the mode it was in.
        values: gives (rows,) values; calls `module` once.
        rows: what `values` is given, whole or in parts; 1 row or more.
        power: 1 or 2.
        workspace_bytes: what the gradients of single samples may take at once; at least one
            sample is taken at a time.

    Example:
        >>> module = nn.Linear(1, 1)
        >>> rows = {"x": torch.tensor([[1.0], [-3.0]])}
        >>> sums_of_powers(module, lambda m, rows: m(rows["x"]).sum(1), rows, power=2)
        {'weight': tensor([[10.]]), 'bias': tensor([2.])}
    """
    if len(next(iter(rows.values()))) == 0:
        raise InternalError("gradients of 0 samples were asked for", allowed="1 sample or more")
    with evaluation_mode(module), _without_fused_recurrence(module):
        owners = _owners(module)
        found = None
        if owners is not None:
            found = _by_layers(module, owners, values, rows, power, workspace_bytes)
        if found is None:
            found = _one_by_one(module, values, rows, power, workspace_bytes)
        return found


def batch_means_of_powers(
    module: nn.Module, values: Values, rows: Mapping[str, Tensor], *, power: int, batch_rows: int
) -> dict[str, Tensor]:
    """1/B sum_b |d mean_{n in b} v_n / d w|^p over batches of rows, by parameter name."""
    sums: dict[str, Tensor] = {}
    count = 0
    with evaluation_mode(module):
        for part in parts(rows, batch_rows):
            size = len(next(iter(part.values())))
            for name, gradient in gradients(module, values, part).items():
                mean = (gradient / size).abs() ** power
                sums[name] = sums[name] + mean if name in sums else mean
            count += 1
    if count == 0:
        raise InternalError("gradients of 0 samples were asked for", allowed="1 sample or more")
    return {name: total / count for name, total in sums.items()}


def trainable(module: nn.Module) -> dict[str, Tensor]:
    """The trainable parameters by name, detached: views of the weights."""
    return {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}


def parts(rows: Mapping[str, Tensor], rows_at_once: int) -> Iterator[dict[str, Tensor]]:
    """The rows in parts, as views."""
    count = len(next(iter(rows.values())))
    for start in range(0, count, rows_at_once):
        yield {name: tensor[start : start + rows_at_once] for name, tensor in rows.items()}


def _owners(module: nn.Module) -> dict[nn.Module, str] | None:
    """Layers with trainable parameters, and their names; None if some are of no known class."""
    owners: dict[nn.Module, str] = {}
    seen: set[nn.Parameter] = set()
    for name, part in module.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is None:
            return None
        own = {n: p for n, p in part.named_parameters(recurse=False) if p.requires_grad}
        if not own:
            continue
        if type(part) not in LAYERS or not set(own) <= {"weight", "bias"}:
            return None
        if not seen.isdisjoint(own.values()):
            return None
        seen.update(own.values())
        owners[part] = f"{name}." if name else ""
    return owners


def _by_layers(
    module: nn.Module,
    owners: Mapping[nn.Module, str],
    values: Values,
    rows: Mapping[str, Tensor],
    power: int,
    workspace_bytes: int,
) -> dict[str, Tensor] | None:
    """None where the graph does not use each parameter once, through its layer."""
    sums: dict[str, Tensor] = {}
    for part in parts(rows, ROWS_AT_ONCE):
        calls: list[_Call] = []
        handles = [
            layer.register_forward_hook(_recorder(calls), prepend=True, always_call=False)
            for layer in owners
        ]
        try:
            with torch.enable_grad():
                total = values(module, part).sum()
        finally:
            for handle in handles:
                handle.remove()
        if not total.requires_grad:
            continue
        count = len(next(iter(part.values())))
        if not _each_used_once(total, calls, owners, count):
            return None
        gradients = torch.autograd.grad(total, [call.output for call in calls], allow_unused=True)
        for call, gradient in zip(calls, gradients, strict=True):
            if gradient is not None:
                _add(sums, owners[call.layer], call, gradient, power, workspace_bytes)
    weights = trainable(module)
    return {n: sums[n] if n in sums else torch.zeros_like(w) for n, w in weights.items()}


def _recorder(calls: list[_Call]) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
    def record(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        # an edge, not the tensor: what is done to it in place afterwards is no matter
        if output.requires_grad:
            calls.append(_Call(layer, inputs[0].detach(), get_gradient_edge(output), len(output)))

    return record


def _each_used_once(
    total: Tensor, calls: list[_Call], owners: Mapping[nn.Module, str], rows: int
) -> bool:
    """Whether each layer was called at most once on all rows, and nobody else uses its weights."""
    called = {call.layer for call in calls}
    if len(called) != len(calls) or any(call.rows != rows for call in calls):
        return False
    if any(call.inputs.dim() < 2 for call in calls):
        return False
    uses = _uses(total)
    return all(
        uses.get(parameter, 0) <= (layer in called)
        for layer in owners
        for parameter in layer.parameters(recurse=False)
        if parameter.requires_grad
    )


def _uses(total: Tensor) -> dict[Tensor, int]:
    """How many edges of the graph end in each parameter."""
    uses: dict[Tensor, int] = {}
    seen, waiting = {total.grad_fn}, [total.grad_fn]
    while waiting:
        node = waiting.pop()
        for following, _ in node.next_functions if node is not None else ():
            leaf = getattr(following, "variable", None)
            if leaf is not None:
                uses[leaf] = uses.get(leaf, 0) + 1
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)
    return uses


def _add(
    sums: dict[str, Tensor],
    prefix: str,
    call: _Call,
    gradient: Tensor,
    power: int,
    workspace_bytes: int,
) -> None:
    own = {n: p for n, p in call.layer.named_parameters(recurse=False) if p.requires_grad}
    like = next(iter(own.values()))
    found = LAYERS[type(call.layer)](
        call.layer, call.inputs.to(like.dtype), gradient.to(like.dtype), power, workspace_bytes
    )
    for name, value in zip(("weight", "bias"), found, strict=True):
        if name in own:
            key = prefix + name
            sums[key] = sums[key].add_(value) if key in sums else value


def _one_by_one(
    module: nn.Module,
    values: Values,
    rows: Mapping[str, Tensor],
    power: int,
    workspace_bytes: int,
) -> dict[str, Tensor]:
    weights = trainable(module)
    gradient_bytes = sum(w.numel() * w.element_size() for w in weights.values())
    rows_at_once = max(1, workspace_bytes // max(gradient_bytes, 1))
    try:
        return _powers(_gradients_by_vmap(module, values, rows, rows_at_once), weights, power)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        # an operation that vmap does not know; what is wrong with the rows shows again below
        return _powers(_gradients_in_a_loop(module, values, rows), weights, power)


class _Values(nn.Module):
    """`values` as a module, so that the weights can be swapped."""

    def __init__(self, module: nn.Module, values: Values) -> None:
        super().__init__()
        self.module = module
        self._values = values

    def forward(self, rows: Mapping[str, Tensor]) -> Tensor:
        return self._values(self.module, rows).sum()


def _gradients_by_vmap(
    module: nn.Module, values: Values, rows: Mapping[str, Tensor], rows_at_once: int
) -> Iterator[dict[str, Tensor]]:
    """By parts of the rows: name -> (rows, *shape) gradients, one a sample."""
    whole = _Values(module, values)
    weights = {_PREFIX + name: weight for name, weight in trainable(module).items()}
    constants = {
        name: tensor.detach()
        for name, tensor in (*whole.named_parameters(), *whole.named_buffers())
        if name not in weights
    }

    def value(weights: Mapping[str, Tensor], rows: Mapping[str, Tensor]) -> Tensor:
        result: Tensor = functional_call(whole, {**weights, **constants}, (rows,))
        return result

    per_sample = vmap(grad(value), in_dims=(None, 0), randomness="different")
    # a sample becomes a batch of one row, so that objective and model see what they always see
    rows_of_one = {name: tensor.unsqueeze(1) for name, tensor in rows.items()}
    for part in parts(rows_of_one, rows_at_once):
        found = per_sample(weights, part)
        yield {name.removeprefix(_PREFIX): gradient for name, gradient in found.items()}


def _gradients_in_a_loop(
    module: nn.Module, values: Values, rows: Mapping[str, Tensor]
) -> Iterator[dict[str, Tensor]]:
    for row in parts(rows, 1):
        found = gradients(module, values, row)
        yield {name: gradient.unsqueeze(0) for name, gradient in found.items()}


def gradients(module: nn.Module, values: Values, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """d sum_n v_n / d w by the name of the parameter; zeros where it is not used."""
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    with torch.enable_grad():
        total = values(module, rows).sum()
    found = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for (name, parameter), gradient in zip(named.items(), found, strict=True)
    }


def _powers(
    gradients: Iterator[dict[str, Tensor]], weights: Mapping[str, Tensor], power: int
) -> dict[str, Tensor]:
    sums = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for part in gradients:
        for name, gradient in part.items():
            sums[name] += (gradient.square() if power == 2 else gradient.abs()).sum(0)
    return sums


def _without_fused_recurrence(module: nn.Module) -> AbstractContextManager[Any]:
    """cuDNN has no backward pass of recurrent layers in evaluation mode."""
    if any(isinstance(part, nn.RNNBase) for part in module.modules()):
        flags: AbstractContextManager[Any] = torch.backends.cudnn.flags(enabled=False)
        return flags
    return nullcontext()
