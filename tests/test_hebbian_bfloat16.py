"""Activations in bfloat16 teach float32 weights nearly what those in float32 do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hebbian import RULES, layer, rows_for
from hebbian_network import CONVOLUTION, DENSE, fields, make
from insitu.layers.block import HebbianBlock, pooling
from insitu.layers.hebbian import HebbianLayer
from insitu.layers.update import HebbianUpdate
from learning import assert_same, copied

LABELS = torch.tensor([2, 0, -1, 4])


def pair(dimensions: int, name: str) -> tuple[HebbianLayer, HebbianLayer]:
    options: dict[str, Any] = {"padding": 1} if dimensions else {"channels": 4}
    low = layer(dimensions, by=name, activations=torch.bfloat16, **options)
    return layer(dimensions, by=name, **options), low


def cosine(one: Tensor, other: Tensor) -> float:
    return float(
        nn.functional.cosine_similarity(one.detach().flatten(), other.detach().flatten(), dim=0)
    )


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("dimensions", [0, 1, 2, 3])
def test_a_step_is_nearly_that_in_float32(dimensions: int, name: str) -> None:
    plain, low = pair(dimensions, name)
    rows = rows_for(plain)
    expected, found = plain(rows, LABELS), low(rows, LABELS)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(
        found.float(), expected, rtol=0.02, atol=0.02 * float(expected.std())
    )
    assert cosine(low.recorded_direction, plain.recorded_direction) > 0.99
    before = plain.weight.clone()
    for made in (plain, low):
        made.apply_update()
        assert {part.dtype for part in (made.weight, made.norms, made.direction)} == {torch.float32}
    assert cosine(low.weight - before, plain.weight - before) > 0.99
    torch.testing.assert_close(low.weight, plain.weight, rtol=0.05, atol=0.03)
    # a change that bfloat16 could not tell from none is not lost in the weights
    assert not torch.equal(low.weight, low.weight.bfloat16().float())


@pytest.mark.parametrize("dimensions", [0, 2])
def test_autocast_is_the_same_as_the_option(dimensions: int) -> None:
    plain, low = pair(dimensions, "softhebb")
    rows = rows_for(plain)
    with torch.autocast("cpu", torch.bfloat16):
        found = plain(rows)
    assert torch.equal(found, low(rows))
    for made in (plain, low):
        made.apply_update()
    assert_same(copied(plain.state_dict()), copied(low.state_dict()))


@pytest.mark.parametrize("what", ["zeros", "large", "NaN"])
@pytest.mark.parametrize("name", RULES)
def test_no_nan_enters_a_weight(name: str, what: str) -> None:
    inner: Any = layer(2, by=name, padding=1, activations=torch.bfloat16)
    block = HebbianBlock(inner, power=0.7, pool=pooling("max", 2, 2))
    update = HebbianUpdate(block)
    rows = rows_for(inner)
    bad = {
        "zeros": rows * 0.0,
        "large": rows * 1e38,
        "NaN": rows.masked_fill(rows > 1.0, torch.nan),
    }
    for each in (bad[what], rows, bad[what]):
        with update.recording(LABELS):
            block(each)
        update.step()
        assert torch.isfinite(inner.weight).all()
        assert all(
            torch.isfinite(part).all() for part in block.standardisation.state_dict().values()
        )
    assert inner.updates >= 1


@pytest.mark.parametrize("lowered", [(0,), (1,), (0, 1)])
def test_blocks_of_a_network_in_a_precision_of_their_own(lowered: tuple[int, ...]) -> None:
    def network(low: tuple[int, ...]) -> Any:
        blocks = [dict(CONVOLUTION), dict(DENSE)]
        for index in low:
            blocks[index]["precision"] = "bfloat16"
        return make(blocks=blocks)

    plain, made = network(()), network(lowered)
    for model in (plain, made):
        update = HebbianUpdate(model)
        for number in range(5):
            outputs = model(fields(8, number))
            assert outputs.dtype == torch.float32
            update.step()
        outputs.sum().backward()  # the head learns by its gradient
    x = fields(8, 9)
    assert cosine(made.eval()(x), plain.eval()(x)) > 0.98
    assert made.blocks[0].standardisation.running_mean.dtype == torch.float32
    resumed = network(lowered)
    resumed.load_state_dict(copied(made.state_dict()))
    assert torch.equal(resumed.eval()(x), made(x))
