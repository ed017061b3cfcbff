"""Any optimizer of torch.optim by name."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from insitu.optimization.options import checked_options, find_class, refusal

_REFUSED = {
    "LBFGS": "it evaluates the loss many times a step through a closure, but a streamed batch is "
    "trained once",
    "SparseAdam": "it takes only sparse gradients, which none of our objectives makes",
}
#: `differentiable` keeps the graph of every update, which is for meta-learning by hand
_RESERVED = ("params", "differentiable")


def available_optimizers() -> dict[str, type[Optimizer]]:
    """What torch.optim has, less what cannot work on a stream."""
    return {
        name: value
        for name, value in sorted(vars(torch.optim).items())
        if inspect.isclass(value)
        and issubclass(value, Optimizer)
        and value is not Optimizer
        and name not in _REFUSED
    }


def build_optimizer(
    name: str,
    parameters: Iterable[Tensor] | Iterable[tuple[str, Tensor]],
    options: Mapping[str, Any],
) -> Optimizer:
    """An optimizer of torch, in its fused form where it has one.

    Fused, an update reads and writes every number once, in one call; AdamW one by one takes ten
    passes. `fused` and `foreach` among the options decide otherwise.

    Args:
        name: of a class in torch.optim, in any case.
        parameters: best `model.named_parameters()`: then the state is kept by parameter name.
        options: keyword arguments of the class, such as `lr` or `betas`.

    Raises:
        OperatorError: no such optimizer, no such option, or a value that torch refuses.

    Example:
        >>> optimizer = build_optimizer("adamw", torch.nn.Linear(2, 1).parameters(), {"lr": 0.01})
        >>> type(optimizer).__name__, optimizer.param_groups[0]["lr"]
        ('AdamW', 0.01)
    """
    target = find_class("optimizer", name, available_optimizers(), _REFUSED)
    checked = checked_options("optimizer", target, options, _RESERVED)
    parameters = list(parameters)  # type: ignore[assignment]
    if _has_fused_form(target, checked, parameters):
        checked["fused"] = True
    try:
        optimizer: Optimizer = target(parameters, **checked)
    except (TypeError, ValueError, RuntimeError) as error:
        raise refusal("optimizer", target, options, error) from error
    return optimizer


def _has_fused_form(
    target: type[Optimizer],
    options: Mapping[str, Any],
    parameters: Iterable[Tensor] | Iterable[tuple[str, Tensor]],
) -> bool:
    """Whether the operator left it open, and torch can do it for these parameters."""
    if "fused" not in inspect.signature(target).parameters:
        return False
    if {"fused", "foreach", "capturable"} & options.keys() or isinstance(options.get("lr"), Tensor):
        return False
    tensors = [item[1] if isinstance(item, tuple) else item for item in parameters]
    return all(t.is_floating_point() and t.device.type in ("cpu", "cuda") for t in tensors)
