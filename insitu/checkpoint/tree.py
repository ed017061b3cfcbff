"""A nested state as JSON and a flat table of named tensors, and back, exactly.

A state is made of dicts, lists, tuples, tensors, int, float, str, bool and None. Its *tree* is
the same nesting in what JSON can hold; where JSON has no word for something there is a dict
with one key that begins with `$`:

    {"$tensor": "model/0.weight"}    the tensor of that name
    {"$complex": "model/phase"}      the same, stored as pairs (real, imaginary)
    {"$tuple": [...]}                a tuple
    {"$dict": [[key, value], ...]}   a dict with keys that are not plain strings (int, or "$...")
    {"$float": "nan"}                nan, inf, -inf

A tensor's name is its path in the state. Anything else (arrays, objects, sets, bytes) is
refused by its path, because what cannot be written down plainly would have to be unpickled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from insitu.errors import OperatorError

#: nesting beyond this is taken for a state that contains itself
DEPTH_LIMIT = 100
#: Python reads no longer number from text unless it is told to
INT_BITS_LIMIT = 14_000
#: what a tree that `flatten` did not make may raise in `unflatten`
NOT_OURS = (AttributeError, KeyError, RuntimeError, TypeError, ValueError)
_ALLOWED = "dict (str or int keys), list, tuple, Tensor, int, float, str, bool, None"


def flatten(state: Any) -> tuple[Any, dict[str, Tensor]]:
    """The tree of a state, and its tensors by name, detached and not copied.

    Complex tensors come as real views with a last extent of 2.

    Example:
        >>> tree, tensors = flatten({"model": {"weight": torch.zeros(2)}, "step": 7})
        >>> tree, list(tensors)
        ({'model': {'weight': {'$tensor': 'model/weight'}}, 'step': 7}, ['model/weight'])

    Raises:
        OperatorError: something in the state is of none of the types above; names its path.
    """
    tensors: dict[str, Tensor] = {}
    return _encode(state, (), tensors), tensors


def unflatten(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The state that `flatten` took apart. The tensors become part of it, uncopied."""
    if isinstance(tree, list):
        return [unflatten(value, tensors) for value in tree]
    if not isinstance(tree, dict):
        return tree
    if len(tree) == 1:
        (tag, content), *_ = tree.items()
        if tag == "$tensor":
            return tensors[content]
        if tag == "$complex":
            return torch.view_as_complex(tensors[content])
        if tag == "$float":
            return float(content)
        if tag == "$tuple":
            return tuple(unflatten(value, tensors) for value in content)
        if tag == "$dict":
            return {key: unflatten(value, tensors) for key, value in content}
    return {key: unflatten(value, tensors) for key, value in tree.items()}


def _encode(value: Any, path: tuple[str, ...], tensors: dict[str, Tensor]) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Tensor):
        return _encode_tensor(value, path, tensors)
    if isinstance(value, float):
        number = float(value)
        return number if math.isfinite(number) else {"$float": str(number)}
    if isinstance(value, int):
        if value.bit_length() > INT_BITS_LIMIT:
            raise _refused(f"an int of {value.bit_length()} bits", path)
        return int(value)
    if isinstance(value, str):
        return str(value)
    if len(path) >= DEPTH_LIMIT:
        raise OperatorError(
            f"the state is nested more than {DEPTH_LIMIT} deep at {_name(path)[:80]!r}...",
            remedy="a state must not contain itself",
        )
    if isinstance(value, Mapping):
        return _encode_mapping(value, path, tensors)
    if isinstance(value, list):
        return [_encode(v, (*path, str(i)), tensors) for i, v in enumerate(value)]
    if isinstance(value, tuple):
        items = [_encode(v, (*path, str(i)), tensors) for i, v in enumerate(value)]
        return {"$tuple": items}
    raise _refused(f"a {type(value).__module__}.{type(value).__qualname__}", path)


def _encode_mapping(
    mapping: Mapping[Any, Any], path: tuple[str, ...], tensors: dict[str, Tensor]
) -> Any:
    pairs: list[tuple[str | int, Any]] = []
    for key, value in mapping.items():
        if isinstance(key, bool) or not isinstance(key, (str, int)):
            raise _refused(f"a dict with the key {key!r}", path)
        plain = str(key) if isinstance(key, str) else int(key)
        pairs.append((plain, _encode(value, (*path, str(plain)), tensors)))
    if all(isinstance(key, str) and not key.startswith("$") for key, _ in pairs):
        return dict(pairs)
    return {"$dict": [list(pair) for pair in pairs]}


def _encode_tensor(tensor: Tensor, path: tuple[str, ...], tensors: dict[str, Tensor]) -> Any:
    strange = tensor.is_quantized or tensor.dtype == torch.complex32
    if strange or tensor.layout != torch.strided or tensor.device.type == "meta":
        raise _refused(f"a {tensor.layout} tensor of {tensor.dtype} on {tensor.device}", path)
    name = _name(path) or "state"
    while name in tensors or name == "__metadata__":  # a word that safetensors keeps for itself
        name += "'"
    plain = tensor.detach()
    if plain.is_complex():
        tensors[name] = torch.view_as_real(plain.resolve_conj())
        return {"$complex": name}
    tensors[name] = plain
    return {"$tensor": name}


def _name(path: tuple[str, ...]) -> str:
    return "/".join(path).encode("utf-8", "backslashreplace").decode()


def _refused(what: str, path: tuple[str, ...]) -> OperatorError:
    return OperatorError(
        f"the state holds {what} at {_name(path) or 'its root'!r}",
        allowed=_ALLOWED,
        consequence="no checkpoint is written",
        remedy="let state_dict() return plain values and tensors",
    )
