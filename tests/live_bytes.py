"""How many bytes a part holds on to: everything that can be reached from it, each thing once."""

from __future__ import annotations

import gc
import sys
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import numpy as np
from torch import Tensor

#: what is shared by the whole process, and so is nobody's own
_SHARED = (type, ModuleType, BuiltinFunctionType)


def live_bytes(root: object) -> int:
    """Bytes of all objects, arrays and storages of tensors that `root` keeps alive.

    Code, classes and modules are left out. Graphs of autograd lie outside of Python and are not
    seen; `graphs` finds whoever holds one.

    Example:
        >>> live_bytes([b"x" * 1000]) - live_bytes([b""])
        1000
    """
    found = _reachable(root)
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in _tensors(found)}
    arrays = sum(a.nbytes for a in found if isinstance(a, np.ndarray) and a.base is None)
    plain = sum(sys.getsizeof(each) for each in found if not isinstance(each, Tensor | np.ndarray))
    return plain + arrays + sum(storage.nbytes() for storage in storages.values())


def graphs(root: object) -> list[Tensor]:
    """The tensors that can be reached and hold a graph of autograd."""
    return [tensor for tensor in _tensors(_reachable(root)) if tensor.grad_fn is not None]


def _tensors(found: list[Any]) -> list[Tensor]:
    return [each for each in found if isinstance(each, Tensor)]


def _reachable(root: object) -> list[Any]:
    seen, found, waiting = {id(root)}, [], [root]
    while waiting:
        each = waiting.pop()
        found.append(each)
        for other in _referents(each):
            if id(other) not in seen and not isinstance(other, _SHARED):
                seen.add(id(other))
                waiting.append(other)
    return found


def _referents(each: object) -> list[Any]:
    if isinstance(each, FunctionType):  # its globals are its module's
        return [*(each.__closure__ or ()), *(each.__defaults__ or ())]
    further = [each.grad] if isinstance(each, Tensor) and each.is_leaf else []
    return [*gc.get_referents(each), *further]
