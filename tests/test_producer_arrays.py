"""Every kind of array that a simulation may have, against numpy's own idea of its values."""

from __future__ import annotations

import array
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from insitu.errors import ProducerError
from insitu.schema import DTYPES, Field
from insitu.wire.rows import pack_rows, unpack_rows
from insitu_producers.arrays import as_array
from insitu_producers.columns import as_columns, inferred

TORCH = {
    "float16": torch.float16, "float32": torch.float32, "float64": torch.float64,
    "bfloat16": torch.bfloat16, "int8": torch.int8, "int16": torch.int16, "int32": torch.int32,
    "int64": torch.int64, "uint8": torch.uint8, "uint16": torch.uint16, "uint32": torch.uint32,
    "uint64": torch.uint64, "bool": torch.bool, "complex64": torch.complex64,
    "complex128": torch.complex128,
}  # fmt: skip


def round_trip(value: Any) -> tuple[str, np.ndarray[Any, Any]]:
    """dtype name and values as they come out of the rows."""
    schema = inferred({"a": value})
    rows, columns = as_columns(schema, {"a": value})
    out = np.empty(rows * schema.row_bytes, np.uint8)
    pack_rows(schema, {"a": columns[0]}, out)
    return schema["a"].dtype, unpack_rows(schema, out.tobytes())["a"]


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d != "bfloat16"])
def test_numpy_dtypes_orders_and_strides(dtype: str) -> None:
    values = (np.arange(24).reshape(4, 3, 2) % 2).astype(dtype)
    for form in (
        values,
        np.asfortranarray(values),
        values[::-1],
        values.astype(values.dtype.newbyteorder(">")),
        np.repeat(values, 2, axis=0)[::2],
    ):
        name, found = round_trip(form)
        assert name == dtype
        assert np.array_equal(found, form)


@pytest.mark.parametrize("dtype", DTYPES)
def test_torch_dtypes(dtype: str) -> None:
    tensor = torch.tensor([[0, 1], [1, 0], [1, 1]]).to(TORCH[dtype])
    name, found = round_trip(tensor.T.contiguous().T)
    assert name == dtype
    if dtype == "bfloat16":
        assert np.array_equal(found, tensor.view(torch.int16).numpy().view(np.uint16))
    else:
        assert np.array_equal(found, tensor.numpy())


def test_torch_tensors_with_gradients_and_lazy_conjugates() -> None:
    assert round_trip(torch.ones(2, requires_grad=True))[1].tolist() == [1, 1]
    assert round_trip(torch.tensor([1 + 2j]).conj())[1].tolist() == [1 - 2j]
    with pytest.raises(ProducerError, match="torch tensor"):
        as_array("a", torch.eye(2).to_sparse())


def test_protocols() -> None:
    assert round_trip(array.array("d", [1, 2]))[1].tolist() == [1, 2]
    assert round_trip(bytearray(b"ab"))[0] == "uint8"
    assert round_trip(memoryview(b"ab"))[1].tolist() == [97, 98]

    class Interface:
        def __init__(self) -> None:
            self.held = np.arange(3)
            self.__array_interface__ = self.held.__array_interface__

    assert round_trip(Interface())[1].tolist() == [0, 1, 2]


class OnDevice:
    """An array as CuPy has it: DLPack says a GPU, `get` copies to the host."""

    def __dlpack__(self, **how: Any) -> Any:
        raise AssertionError("the memory of a device must not be read in place")

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def get(self) -> np.ndarray[Any, Any]:
        return np.arange(4.0)


class OnHost:
    def __init__(self) -> None:
        self.held = np.arange(4.0)

    def __dlpack__(self, **how: Any) -> Any:
        return self.held.__dlpack__(**how)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.held.__dlpack_device__()


@pytest.mark.parametrize("value", [OnDevice(), OnHost()])
def test_dlpack(value: Any) -> None:
    assert round_trip(value)[1].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("dtype", DTYPES)
def test_python_values_take_the_dtype_of_the_schema(dtype: str) -> None:
    name, found = as_array("a", [True, False], Field("a", dtype))
    assert name == dtype
    assert found.dtype == DTYPES[dtype]


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=20))
def test_python_numbers_round_to_bfloat16_as_torch_does(values: list[float]) -> None:
    _, found = as_array("a", values, Field("a", "bfloat16"))
    expected = torch.tensor(values, dtype=torch.float32).to(torch.bfloat16).view(torch.int16)
    assert np.array_equal(found, expected.numpy().view(np.uint16))


@pytest.mark.parametrize("value", ["text", {"a": 1}, None, object(), np.array(["a"])])
def test_what_is_no_array_of_numbers(value: Any) -> None:
    with pytest.raises(ProducerError, match="'a'"):
        as_array("a", value)


def test_the_flags_are_those_of_the_library() -> None:
    """The client repeats them, since importing `insitu.batch` would import torch."""
    from insitu.batch import SampleFlag
    from insitu_producers import producer

    assert producer.EVALUATE == SampleFlag.EVALUATE
    assert producer.NO_REPLAY == SampleFlag.NO_REPLAY
