"""The door lets good rows in, names bad ones, and mends what it is told to mend."""

from __future__ import annotations

import numpy as np
import pytest

from insitu.schema import DTYPES, Schema
from insitu_service.ingest.door import Door

FLOATING = ["float16", "float32", "float64", "complex64", "complex128"]


def door(dtype: str = "float32", non_finite: str = "quarantine", **ranges: tuple) -> Door:
    return Door(Schema.of({"x": (dtype, (3,)), "y": ("int64", ())}), ranges, non_finite)


def views(dtype: str = "float32", rows: int = 4) -> dict[str, np.ndarray]:
    return {"x": np.ones((rows, 3), DTYPES[dtype]), "y": np.arange(rows, dtype=np.int64)}


@pytest.mark.parametrize("dtype", FLOATING)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_rows_are_named(dtype: str, bad: float) -> None:
    data = views(dtype)
    data["x"][2, 1] = bad
    refusal = door(dtype).inspect(data)
    assert refusal is not None
    assert refusal.code == "non_finite"
    assert refusal.bad_rows.tolist() == [False, False, True, False]
    assert "'x'" in refusal.text
    assert "row 2" in refusal.text


@pytest.mark.parametrize("bits", [0x7F80, 0xFF80, 0x7FC0])
def test_bfloat16_is_checked_by_its_bits(bits: int) -> None:
    data = views("bfloat16")
    assert door("bfloat16").inspect(data) is None
    data["x"][1, 0] = bits
    refusal = door("bfloat16").inspect(data)
    assert refusal is not None
    assert refusal.bad_rows.tolist() == [False, True, False, False]


def test_the_largest_finite_numbers_are_let_in() -> None:
    data = views("float32")
    data["x"][:] = np.finfo(np.float32).max
    assert door().inspect(data) is None
    half = views("float16")
    half["x"][:] = np.finfo(np.float16).max
    assert door("float16").inspect(half) is None


def test_opposite_infinities_do_not_cancel() -> None:
    data = views()
    data["x"][0, 0], data["x"][0, 1] = np.inf, -np.inf
    assert door().inspect(data) is not None


def test_clip_mends_in_place_within_the_data_s_own_magnitude() -> None:
    data = views()
    data["x"][0] = (np.nan, np.inf, -np.inf)
    data["x"][1, 0] = -7.0
    clipping = door(non_finite="clip")
    assert clipping.inspect(data) is None
    assert data["x"][0].tolist() == [0.0, 7.0, -7.0]
    assert clipping.clipped_values == 3


def test_clip_uses_the_field_s_bounds() -> None:
    data = views()
    data["x"][0] = (np.nan, np.inf, -np.inf)
    assert door(non_finite="clip", x=(-2.0, 3.0)).inspect(data) is None
    assert data["x"][0].tolist() == [0.0, 3.0, -2.0]


def test_accept_looks_the_other_way() -> None:
    data = views()
    data["x"][0, 0] = np.nan
    assert door(non_finite="accept").inspect(data) is None
    assert door(non_finite="accept", x=(0.0, 2.0)).inspect(data) is None


def test_a_label_outside_of_its_range_is_refused_with_its_value() -> None:
    data = views()
    data["y"][3] = 10
    refusal = door(y=(0, 9)).inspect(data)
    assert refusal is not None
    assert refusal.code == "range"
    assert refusal.bad_rows.tolist() == [False, False, False, True]
    assert "value 10" in refusal.text
    assert "[0, 9]" in refusal.text
    assert door(y=(None, 10)).inspect(data) is None
