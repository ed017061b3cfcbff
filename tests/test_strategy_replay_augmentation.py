"""Changes of replayed samples: each against a plain loop, their draws, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from insitu.batch import Batch
from insitu.component import find
from insitu.criterion import Criterion
from insitu.errors import OperatorError
from insitu.schema import Schema
from insitu.strategies.replay_augmentation import Augmentation
from learning import generator, make_memory, make_model, make_objective


def images(rows: int, *shape: int) -> Batch:
    """All values different and none 0."""
    count = rows * int(np.prod(shape))
    return Batch.of({"x": torch.arange(1.0, count + 1).reshape(rows, *shape)})


def changed(batch: Batch, seed: int = 0, **options: Any) -> Tensor:
    return Augmentation(**options).applied(batch, generator(seed)).fields["x"]


def shifted(image: Tensor, down: int, right: int) -> Tensor:
    """(C, H, W) cell by cell: the cell that is `down` below and `right` of it; zeros outside."""
    result = torch.zeros_like(image)
    height, width = image.shape[1:]
    for i in range(height):
        for j in range(width):
            if 0 <= i + down < height and 0 <= j + right < width:
                result[:, i, j] = image[:, i + down, j + right]
    return result


@given(
    most=st.integers(1, 3),
    channels=st.integers(1, 3),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    seed=st.integers(0, 100),
)
def test_a_shift_is_one_of_those_allowed(
    most: int, channels: int, height: int, width: int, seed: int
) -> None:
    batch = images(3, channels, height, width)
    result = changed(batch, seed, shift_pixels=most)
    offsets = range(-most, most + 1)
    for before, after in zip(batch.fields["x"], result, strict=True):
        assert any(torch.equal(after, shifted(before, i, j)) for i in offsets for j in offsets)


@given(most=st.integers(1, 6), seed=st.integers(0, 100))
def test_a_roll_loses_nothing(most: int, seed: int) -> None:
    batch = images(2, 2, 3, 4, 5)
    result = changed(batch, seed, roll_cells=most)
    offsets = range(-most, most + 1)
    for before, after in zip(batch.fields["x"], result, strict=True):
        rolled = (
            torch.roll(before, (i, j, k), dims=(1, 2, 3))
            for i in offsets
            for j in offsets
            for k in offsets
        )
        assert any(torch.equal(after, each) for each in rolled)


def test_half_of_the_rows_are_mirrored() -> None:
    batch = images(400, 2, 3, 4)
    result = changed(batch, flip=True)
    mirrored = 0
    for before, after in zip(batch.fields["x"], result, strict=True):
        is_mirrored = torch.equal(after, before.flip(-1))
        assert is_mirrored or torch.equal(after, before)
        mirrored += is_mirrored
    assert 150 < mirrored < 250  # five standard deviations


def test_every_shift_is_equally_likely() -> None:
    batch = Batch.of({"x": torch.arange(7.0).expand(3000, 7)})
    result = changed(batch, roll_cells=2)
    counts = torch.bincount((result[:, 0].long() + 2) % 7, minlength=7)
    assert counts[5:].tolist() == [0, 0]
    statistic = ((counts[:5] - 600.0).square() / 600.0).sum().item()
    assert statistic < 23.5  # chi-square of 4 degrees of freedom, 1 in 10,000


def test_noise_has_its_deviation() -> None:
    batch = Batch.of({"x": torch.zeros(200, 50, dtype=torch.float64)})
    result = changed(batch, noise=0.3)
    assert result.dtype == torch.float64
    assert abs(result.std().item() - 0.3) < 0.01
    assert abs(result.mean().item()) < 0.02


def test_a_flat_field_is_changed_as_the_image_it_is() -> None:
    batch = images(5, 2, 4, 4)
    flat = Batch.of({"x": batch.fields["x"].flatten(1)})
    options: dict[str, Any] = {"shift_pixels": 2, "flip": True}
    expected = changed(batch, 3, **options)
    assert torch.equal(changed(flat, 3, shape=(2, 4, 4), **options), expected.flatten(1))


def test_all_fields_move_together() -> None:
    batch = images(6, 1, 4, 4)
    both = Batch.of({"x": batch.fields["x"], "y": batch.fields["x"] * 10, "z": torch.ones(6)})
    result = Augmentation(fields=("x", "y"), shift_pixels=2, flip=True).applied(both, generator(1))
    assert torch.equal(result.fields["y"], result.fields["x"] * 10)
    assert not torch.equal(result.fields["x"], batch.fields["x"])
    assert result.fields["z"] is both.fields["z"]


def test_integers_are_shifted_too_and_inputs_stay() -> None:
    before = torch.arange(1, 33, dtype=torch.uint8).reshape(2, 4, 4)
    batch = Batch.of({"x": before.clone()})
    result = changed(batch, shift_pixels=1)
    assert result.dtype == torch.uint8
    assert torch.equal(batch.fields["x"], before)
    assert not torch.equal(result, before)


def test_the_same_seed_gives_the_same_rows() -> None:
    batch = images(4, 1, 5, 5)
    options: dict[str, Any] = {"shift_pixels": 1, "roll_cells": 1, "flip": True, "noise": 0.1}
    assert torch.equal(changed(batch, 1, **options), changed(batch, 1, **options))
    assert not torch.equal(changed(batch, 1, **options), changed(batch, 2, **options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fields": ("w",), "flip": True}, "names 'w'.*allowed: x"),
        ({"shape": (3, 5, 5), "flip": True}, r"field 'x'.*\[1, 4, 4\].*augment.shape"),
    ],
)
def test_what_does_not_fit_the_stream_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OperatorError, match=message):
        changed(images(2, 1, 4, 4), **options)


def test_noise_on_whole_numbers_is_refused() -> None:
    with pytest.raises(OperatorError, match=r"noise is 0.1.*uint8"):
        changed(Batch.of({"x": torch.zeros(2, 3, dtype=torch.uint8)}), noise=0.1)


def test_fields_of_unlike_shapes_cannot_move_together() -> None:
    batch = Batch.of({"x": torch.zeros(2, 4, 4), "y": torch.zeros(2, 5, 5)})
    with pytest.raises(OperatorError, match=r"field 'y'.*\[5, 5\].*\[4, 4\]"):
        changed(batch, fields=("x", "y"), flip=True)


@pytest.mark.parametrize("name", ["replay", "er_ace", "der", "der_pp", "mir"])
def test_it_is_set_by_configuration(name: str) -> None:
    component = find("insitu.strategies", name)
    checked = component.check({"augment": {"shift_pixels": 2, "flip": True}})
    assert checked["augment"] == Augmentation(shift_pixels=2, flip=True)
    with pytest.raises(OperatorError, match=r"augment\.shift_pixel: no such option"):
        component.check({"augment": {"shift_pixel": 2}})


STREAM = Schema.of(
    {
        "x": ("float32", (1, 4, 4)),
        "y": ("float64", (2, 4, 4)),
        "small": ("float32", (3, 3)),
        "pixels": ("uint8", (4, 4)),
    }
)


def drawn(schema: Schema) -> Batch:
    """Two rows of a stream."""
    fields = {
        field.name: torch.zeros(2, *field.shape, dtype=getattr(torch, field.dtype))
        for field in schema.fields
    }
    return Batch.of(fields)


def is_refused(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except OperatorError:
        return True
    return False


@given(
    fields=st.lists(
        st.sampled_from(["x", "y", "small", "pixels", "w"]), min_size=1, max_size=3, unique=True
    ),
    shape=st.sampled_from([None, (16,), (1, 4, 4), (2, 4, 4), (3, 3)]),
    shift_pixels=st.integers(0, 1),
    flip=st.booleans(),
    noise=st.sampled_from([0.0, 0.1]),
)
def test_the_stream_is_refused_at_start_exactly_where_a_replay_would_fail(
    fields: list[str], **options: Any
) -> None:
    augmentation = Augmentation(fields=tuple(fields), **options)
    at_start = is_refused(lambda: augmentation.check_stream(STREAM))
    assert at_start == is_refused(lambda: augmentation.applied(drawn(STREAM), generator(0)))


@pytest.mark.parametrize("name", ["replay", "er_ace", "der", "der_pp", "mir"])
def test_a_strategy_is_not_built_for_a_stream_that_it_cannot_change(name: str) -> None:
    component = find("insitu.strategies", name)
    objective = make_objective("classify")
    model = make_model(objective)
    parts = {
        "memory": make_memory(),
        "objective": objective,
        "criterion": Criterion(model, objective),
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "schema": STREAM,
    }
    wrong = {"augment": {"fields": ["w"], "flip": True}}
    with pytest.raises(OperatorError, match=rf"'{name}': augment: augment.fields names 'w'"):
        component.build(wrong, parts)
    component.build({"augment": {"fields": ["x"], "flip": True}}, parts)
