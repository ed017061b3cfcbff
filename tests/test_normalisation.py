"""Running normalisation against numpy over the whole stream, however it is cut."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from insitu.batch import Batch
from insitu.errors import OperatorError
from insitu.normalisation import Normaliser, default_axes, to_unit_range
from insitu.schema import Schema

AXES = {"element": (0,), "channel": (0, 2, 3), "whole": (0, 1, 2, 3)}


def stream(values: torch.Tensor, cuts: Sequence[int]) -> list[Batch]:
    edges = [0, *sorted(min(cut, len(values)) for cut in cuts), len(values)]
    return [Batch.of({"x": values[a:b]}) for a, b in pairwise(edges) if b > a]


def fed(values: torch.Tensor, cuts: Sequence[int] = (), **options: Any) -> Normaliser:
    schema = Schema.of({"x": (str(values.dtype).removeprefix("torch."), tuple(values.shape[1:]))})
    normaliser = Normaliser(schema, {"x": "x"}, **options)
    for batch in stream(values, cuts):
        normaliser.update(batch)
    return normaliser


@settings(max_examples=40, deadline=None)
@given(
    axes=st.sampled_from(sorted(AXES)),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    cuts=st.lists(st.integers(0, 40), max_size=6),
    offset=st.sampled_from([0.0, -3.0, 101325.0]),
    scale=st.sampled_from([1e-3, 1.0, 50.0]),
    seed=st.integers(0, 2**31),
)
def test_parity_with_numpy_for_any_split(
    axes: Any, dtype: torch.dtype, cuts: list[int], offset: float, scale: float, seed: int
) -> None:
    values = np.random.default_rng(seed).normal(size=(40, 2, 3, 5))
    values = offset + scale * (values + np.array([0.0, 2.0])[:, None, None])
    tensor = torch.tensor(values, dtype=dtype)
    exact = tensor.double().numpy()
    normaliser = fed(tensor, cuts, axes={"x": axes})
    mean = exact.mean(AXES[axes], keepdims=True)[0]
    deviation = exact.std(AXES[axes], keepdims=True)[0]
    # A float32 sum around 101325 is good to about 1e-2 of a value; so is the mean of a row.
    rounding = 0.0 if dtype == torch.float64 else abs(offset) * 2e-7
    np.testing.assert_allclose(normaliser.mean("x"), mean, atol=rounding + 1e-6 * scale)
    if dtype == torch.float64 or scale > 1e-3 or abs(offset) < 1e3:
        np.testing.assert_allclose(normaliser.deviation("x"), deviation, rtol=1e-4, atol=rounding)
        mapped = normaliser.normalise(Batch.of({"x": tensor})).fields["x"]
        wanted = (exact - mean) / deviation
        np.testing.assert_allclose(mapped, wanted, atol=1e-3 + 3 * rounding / scale)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [((), "element"), ((3,), "element"), ((4, 5), "whole"), ((3, 4, 5), "channel")],
)
def test_default_axes(shape: tuple[int, ...], axes: str) -> None:
    assert default_axes(shape) == axes


@pytest.mark.parametrize("magnitude", [1e-25, 1e20])
def test_si_units_neither_overflow_nor_vanish(magnitude: float) -> None:
    values = magnitude * torch.randn(50, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    mapped = fed(values, [10, 20]).normalise(Batch.of({"x": values})).fields["x"]
    assert mapped.std().item() == pytest.approx(1.0, abs=1e-2)


def test_before_the_first_sample_nothing_changes() -> None:
    values = torch.randn(3, 4)
    assert torch.equal(fed(values[:0]).normalise(Batch.of({"x": values})).fields["x"], values)


@pytest.mark.parametrize("value", [0.0, 7.5, -1e6, 0.1])
def test_constant_fields_only_lose_their_mean(value: float) -> None:
    values = torch.full((33, 1, 7, 9), value)
    normaliser = fed(values, [1, 2, 20])
    mapped = normaliser.normalise(Batch.of({"x": values})).fields["x"]
    assert mapped.abs().max().item() <= 1e-6 * abs(value)
    assert torch.equal(normaliser.deviation("x"), torch.ones(1, 1, 1))


def test_a_large_constant_field_is_not_taken_for_noise() -> None:
    values = torch.full((2, 1, 700, 700), 0.1)
    assert fed(values).deviation("x").item() == 1.0


def test_a_dead_element_that_wakes_up_is_bounded_by_the_root_of_the_count() -> None:
    """Samuelson's inequality: no row is further than sqrt(n - 1) deviations from the mean."""
    values = torch.zeros(400, 1)
    values[-1] = 1e6
    mapped = fed(values, [399]).normalise(Batch.of({"x": values})).fields["x"]
    assert mapped.max().item() == pytest.approx(399**0.5, rel=1e-4)
    clipped = fed(values, [399], clip_deviations=5.0)
    assert clipped.normalise(Batch.of({"x": values})).fields["x"].max().item() == 5.0


def test_one_row_at_first_is_sane() -> None:
    values = torch.tensor([[3.0, -2.0]])
    mapped = fed(values).normalise(Batch.of({"x": values})).fields["x"]
    assert torch.equal(mapped, torch.zeros(1, 2))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_non_finite_value_does_not_poison_the_statistics(bad: float) -> None:
    values = torch.randn(30, 3, 2, 2, generator=torch.Generator().manual_seed(2))
    spoiled = values.clone()
    spoiled[12, 1, 0, 1] = bad
    normaliser, clean = fed(spoiled, [10, 20]), fed(values, [10, 20])
    without = fed(torch.cat((values[:10], values[20:])), [10])
    for channel, wanted in ((0, clean), (1, without), (2, clean)):
        torch.testing.assert_close(normaliser.mean("x")[channel], wanted.mean("x")[channel])
        torch.testing.assert_close(
            normaliser.deviation("x")[channel], wanted.deviation("x")[channel]
        )


def test_only_fresh_rows_count() -> None:
    fresh, remembered = Batch.of({"x": torch.ones(2, 1)}), Batch.of({"x": torch.full((9, 1), 5.0)})
    normaliser = Normaliser(Schema.of({"x": ("float32", (1,))}), {"x": "x"})
    normaliser.update(fresh.joined(remembered))
    assert (normaliser.samples, normaliser.mean("x").item()) == (2, 1.0)
    normaliser.update(Batch(remembered.fields, remembered.provenance, fresh_rows=0))
    assert normaliser.samples == 2


def test_freezing_after_a_number_of_samples() -> None:
    values = torch.arange(12.0).reshape(12, 1)
    normaliser = fed(values, [4, 8], freeze_after_samples=5)
    assert (normaliser.frozen, normaliser.samples) == (True, 8)
    assert normaliser.mean("x").item() == pytest.approx(3.5)


def test_shared_statistics_and_untouched_labels() -> None:
    schema = Schema.of({"x": ("float32", (2,)), "y": ("float32", (2,)), "label": ("int64", ())})
    normaliser = Normaliser(schema, {"x": "x", "y": "x"})
    x = torch.tensor([[0.0, 10.0], [4.0, 30.0]])
    batch = Batch.of({"x": x, "y": x + 2, "label": torch.tensor([3, 4])})
    normaliser.update(batch)
    mapped = normaliser.normalise(batch)
    torch.testing.assert_close(mapped.fields["y"], torch.tensor([[0.0, -0.8], [2.0, 1.2]]))
    assert mapped.fields["label"] is batch.fields["label"]
    assert torch.equal(batch.fields["x"], x)
    torch.testing.assert_close(normaliser.denormalise("y", mapped.fields["y"]), x + 2)


def test_unnormalised_fields_keep_their_values() -> None:
    schema = Schema.of({"x": ("float32", (2,)), "y": ("float32", (2,))})
    batch = Batch.of({"x": torch.randn(3, 2), "y": torch.randn(3, 2)})
    for unnormalised, kept in ((("x",), {"x", "y"}), (("y",), {"y"})):
        normaliser = Normaliser(schema, {"x": "x", "y": "x"}, unnormalised=unnormalised)
        normaliser.update(batch)
        mapped = normaliser.normalise(batch)
        assert {n for n in "xy" if mapped.fields[n] is batch.fields[n]} == kept
        assert normaliser.denormalise("y", batch.fields["y"]) is batch.fields["y"]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.uint16, torch.int64, torch.bool,
                                   torch.float16, torch.bfloat16, torch.float64])  # fmt: skip
def test_every_real_dtype_becomes_float32_of_unit_deviation(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(3)
    values = torch.randint(0, 100, (200, 1), generator=draw)
    values = (values > 50).to(dtype) if dtype == torch.bool else values.to(dtype)
    mapped = fed(values, [50]).normalise(Batch.of({"x": values})).fields["x"]
    assert mapped.dtype == torch.float32
    assert mapped.mean().item() == pytest.approx(0.0, abs=1e-5)
    assert mapped.std(correction=0).item() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize(
    ("dtype", "full"),
    [(torch.uint8, 255), (torch.int8, 127), (torch.uint16, 65535), (torch.int16, 32767)],
)
def test_unit_range(dtype: torch.dtype, full: int) -> None:
    values = torch.tensor([0, 1, full]).to(dtype)
    assert to_unit_range(values).tolist() == pytest.approx([0.0, 1 / full, 1.0])
    assert values.tolist() == [0, 1, full]
    wide = torch.tensor([0, 1, 2**40])
    assert torch.equal(to_unit_range(wide), wide.float())


def test_strided_views_of_a_row_block_are_read_in_place() -> None:
    block = torch.randn(20, 32)
    view = block[:, 4:16].view(20, 3, 2, 2)
    assert not view.is_contiguous()
    torch.testing.assert_close(fed(view).mean("x"), fed(view.contiguous()).mean("x"))


def test_state_round_trip_is_bit_exact_and_goes_on() -> None:
    values = torch.randn(60, 3, 2, 2, generator=torch.Generator().manual_seed(4)) + 9
    through, first = fed(values, [20, 40]), fed(values[:40], [20])
    state = first.state_dict()
    resumed = fed(values[:0], axes={"x": "channel"})
    resumed.load_state_dict(state)
    resumed.update(Batch.of({"x": values[40:]}))
    assert first.samples == 40
    assert resumed.samples == through.samples == 60
    for key, tensor in through.state_dict()["fields"]["x"].items():
        assert torch.equal(resumed.state_dict()["fields"]["x"][key], tensor)
    assert torch.equal(resumed.deviation("x"), through.deviation("x"))
    assert torch.equal(resumed.mean("x"), through.mean("x"))


def test_states_of_another_normaliser_are_refused() -> None:
    schema = Schema.of({"x": ("float32", (3,)), "y": ("float32", (3,))})
    one, both = Normaliser(schema, {"x": "x"}), Normaliser(schema, {"x": "x", "y": "y"})
    whole = Normaliser(schema, {"x": "x"}, axes={"x": "whole"})
    with pytest.raises(OperatorError, match=r"\['x', 'y'\]"):
        one.load_state_dict(both.state_dict())
    with pytest.raises(OperatorError, match="count of 'x'"):
        one.load_state_dict(whole.state_dict())
    with pytest.raises(OperatorError, match="samples"):
        one.load_state_dict({"samples": 3})


@pytest.mark.parametrize(
    ("statistics_of", "options", "message"),
    [
        ({"z": "z"}, {}, "no field 'z'"),
        ({"x": "z"}, {}, "no field 'z'"),
        ({"w": "w"}, {}, "complex64"),
        ({"x": "y", "y": "y"}, {}, r"'x' \[2\] cannot take the statistics of 'y' \[3\]"),
        ({"x": "x2"}, {}, "keeps statistics of its own"),
        ({"x": "x"}, {"axes": {"y": "whole"}}, "'y' is not a field"),
        ({"x": "x"}, {"unnormalised": ("y",)}, "'y' is not a field"),
    ],
)
def test_wrong_names_are_refused(
    statistics_of: dict[str, str], options: dict[str, Any], message: str
) -> None:
    fields: dict[str, tuple[str, tuple[int, ...]]] = {
        "x": ("float32", (2,)),
        "x2": ("float32", (2,)),
        "y": ("float32", (3,)),
        "w": ("complex64", (2,)),
    }
    with pytest.raises(OperatorError, match=message):
        Normaliser(Schema.of(fields), statistics_of, **options)
