"""State of torch's optimizers and schedules as plain data, and back, bit by bit.

torch keeps integers as keys, tuples and counters in these states; a JSON manifest holds strings
as keys and lists. So state goes out as nested dicts with string keys, lists, numbers, strings,
booleans, None and tensors, and what the plain form lost is restored after the pattern of the
object that takes it in. Nothing is pickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from insitu.errors import InternalError, OperatorError


def plain(value: Any) -> Any:
    """The value as plain data; tensors stay the live tensors.

    Example:
        >>> plain({3: (0.9, 0.999)})
        {'3': [0.9, 0.999]}
    """
    if value is None or isinstance(value, Tensor | bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    raise InternalError(
        f"a state holds a {type(value).__name__}: {value!r}",
        allowed="tensors, numbers, strings, booleans, None, and lists and dicts of these",
    )


def restored(value: Any, pattern: Any) -> Any:
    """Plain data with the key types, tuples and counters of `pattern`; tensors are copied.

    Example:
        >>> restored({"3": [0.9, 0.999]}, {3: (0.5, 0.5)})
        {3: (0.9, 0.999)}
    """
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        keys = {str(key): key for key in pattern} if isinstance(pattern, Mapping) else {}
        pairs = {
            keys.get(name, name): restored(item, pattern[keys[name]] if name in keys else None)
            for name, item in value.items()
        }
        return type(pattern)(pairs) if isinstance(pattern, dict) else pairs
    if isinstance(value, list):
        patterns = list(pattern) if isinstance(pattern, list | tuple) else []
        patterns += [None] * (len(value) - len(patterns))
        items = [restored(item, p) for item, p in zip(value, patterns, strict=False)]
        return tuple(items) if isinstance(pattern, tuple) else items
    return value


def _parameter_names(group: Mapping[str, Any]) -> list[str]:
    return list(group.get("param_names") or map(str, group["params"]))


def optimizer_state(optimizer: Optimizer) -> dict[str, Any]:
    """`{"parameters": {name: {slot: tensor | number}}, "groups": [{option: value}]}`.

    Names are those of `named_parameters()` where the optimizer was built from them, else the
    running numbers of the parameters.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> optimizer = torch.optim.SGD(model.named_parameters(), lr=0.1, momentum=0.9)
        >>> model(torch.ones(1, 2)).sum().backward()
        >>> optimizer.step()
        >>> optimizer_state(optimizer)["parameters"]
        {'weight': {'momentum_buffer': tensor([[1., 1.]])}}
    """
    raw = optimizer.state_dict()
    names = _names_by_index(raw)
    return {
        "parameters": {names[index]: plain(slots) for index, slots in raw["state"].items()},
        "groups": [
            {"param_names": _parameter_names(group)}
            | {key: plain(v) for key, v in group.items() if key not in ("params", "param_names")}
            for group in raw["param_groups"]
        ],
    }


def load_optimizer_state(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Take over what `optimizer_state` gave, copying it.

    Build the schedule first: it adds an option (`initial_lr`) to the optimizer's groups.

    Raises:
        OperatorError: the state is of other parameters or of another kind of optimizer.
    """
    raw = optimizer.state_dict()
    groups = [
        _restored_group(saved, own)
        for saved, own in zip(_matching_groups(state, raw), raw["param_groups"], strict=True)
    ]
    index = {name: number for number, name in _names_by_index(raw).items()}
    slots = {index[name]: restored(item, None) for name, item in state["parameters"].items()}
    optimizer.load_state_dict({"state": slots, "param_groups": groups})


def _names_by_index(raw: Mapping[str, Any]) -> dict[int, str]:
    return {
        index: name
        for group in raw["param_groups"]
        for index, name in zip(group["params"], _parameter_names(group), strict=True)
    }


def _matching_groups(state: Mapping[str, Any], raw: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    saved, own = list(state["groups"]), raw["param_groups"]
    theirs = [list(group["param_names"]) for group in saved]
    ours = [_parameter_names(group) for group in own]
    if theirs != ours:
        raise OperatorError(
            f"the state of the optimizer is for the parameters {theirs}",
            allowed=f"{ours}",
            remedy="resume with the model that the checkpoint was written with",
        )
    for group, mine in zip(saved, own, strict=True):
        if group.keys() - {"param_names"} != mine.keys() - {"params", "param_names"}:
            raise OperatorError(
                f"the state of the optimizer has the options {sorted(group)}",
                allowed=f"{sorted(mine)}",
                remedy="resume with the optimizer that the checkpoint was written with",
            )
    return saved


def _restored_group(saved: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    options = {key: restored(saved[key], own[key]) for key in own.keys() & saved.keys()}
    kept = {key: own[key] for key in ("params", "param_names") if key in own}
    return options | kept
