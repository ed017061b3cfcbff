"""Whatever a simulation holds its data in, as numpy arrays on the host, copied only where needed.

Accepted: numpy arrays, torch tensors (bfloat16 too; those on a device are copied to the host),
anything with DLPack (CuPy, JAX, ...), `__array_interface__` or the buffer protocol, and Python
numbers and lists, which take the dtype of the stream's schema. torch is never imported: a tensor
brings it along.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from insitu.errors import ProducerError
from insitu.schema import DTYPES, Field
from insitu.wire.rows import Array

#: DLPack device types whose memory the CPU can read (kDLCPU, kDLCUDAHost, kDLROCMHost).
_HOST_DEVICES = (1, 3, 11)
_PYTHON_VALUES = (bool, int, float, complex, list, tuple)


def as_array(name: str, value: Any, field: Field | None = None) -> tuple[str, Array]:
    """The dtype name on the wire and the array of a value.

    Args:
        name: of the field, for errors.
        value: the data; only read.
        field: what the schema says, where there is one: Python numbers and lists take its dtype.

    Raises:
        ProducerError: naming the field, when there is no way to make an array of it.

    Example:
        >>> as_array("x", np.zeros((2, 3), np.float32))[0]
        'float32'
    """
    if type(value) is np.ndarray:
        return _named(name, value)
    if isinstance(value, _PYTHON_VALUES):
        return _from_python(name, value, field)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return _from_torch(name, value, torch)
    if hasattr(value, "__dlpack__") and not isinstance(value, np.ndarray):
        return _named(name, _from_dlpack(name, value))
    return _named(name, _from_protocol(name, value))


def _named(name: str, array: Array) -> tuple[str, Array]:
    dtype = array.dtype.name
    if dtype not in DTYPES:
        raise ProducerError(
            f"field {name!r} has dtype {dtype!r}",
            allowed=", ".join(sorted(DTYPES)),
            remedy=f"convert it before the push, such as {name}.astype('float32')",
        )
    return dtype, array.view(np.uint16) if dtype == "bfloat16" else array


def _from_python(name: str, value: Any, field: Field | None) -> tuple[str, Array]:
    if field is None:
        return _named(name, np.asarray(value))
    if field.dtype == "bfloat16":
        bits = np.asarray(value, np.float32).view(np.uint32).astype(np.uint64)
        return field.dtype, ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    array = np.asarray(value)
    kinds = {"b": 0, "i": 1, "u": 1, "f": 2, "c": 3}
    try:
        if array.size and kinds.get(array.dtype.kind, 9) > kinds[field.numpy_dtype.kind]:
            raise TypeError(f"{array.dtype.name} does not fit")
        return field.dtype, np.asarray(value, field.numpy_dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise ProducerError(
            f"field {name!r} is a Python value that {field.dtype} cannot hold: {error}",
            allowed=f"values of dtype {field.dtype}",
        ) from None


def _from_torch(name: str, tensor: Any, torch: Any) -> tuple[str, Array]:
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
    if tensor.dtype is torch.bfloat16:
        return "bfloat16", tensor.view(torch.int16).numpy().view(np.uint16)
    try:
        return _named(name, tensor.numpy())
    except TypeError:
        raise ProducerError(
            f"field {name!r} is a torch tensor of {tensor.dtype}, {tensor.layout}",
            allowed="dense tensors of " + ", ".join(sorted(DTYPES)),
        ) from None


def _from_dlpack(name: str, value: Any) -> Array:
    if value.__dlpack_device__()[0] in _HOST_DEVICES:
        try:
            return np.from_dlpack(value)
        except (BufferError, RuntimeError, TypeError):  # such as read-only or bfloat16
            return _from_protocol(name, value)
    for method in ("get", "cpu"):  # CuPy; most others
        copy_to_host = getattr(value, method, None)
        if callable(copy_to_host):
            return as_array(name, copy_to_host())[1]
    return _from_protocol(name, value)


def _from_protocol(name: str, value: Any) -> Array:
    array = np.asarray(value)
    if array.dtype == object:
        raise ProducerError(
            f"field {name!r} is a {type(value).__name__}, which is not an array of numbers",
            allowed="numpy, torch, DLPack, __array_interface__, or the buffer protocol",
        )
    return array
