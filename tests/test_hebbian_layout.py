"""Channels last or first: another order in memory, the same network up to rounding."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hebbian_network import CONVOLUTION, DENSE
from insitu.layers.update import HebbianUpdate
from insitu.models.hebbian import Hebbian
from insitu.models.hebbian_options import BlockOptions
from learning import assert_same, copied, generator

LAYOUTS = {2: torch.channels_last, 3: torch.channels_last_3d}


def network(dimensions: int, channels_last: bool, seed: int = 0) -> Hebbian:
    shape = (2, *[6] * dimensions)
    blocks = tuple(BlockOptions(**block) for block in (CONVOLUTION, CONVOLUTION, DENSE))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Hebbian(
            shape, (3,), blocks=blocks, dimensions=dimensions, channels_last=channels_last
        )  # type: ignore[arg-type]


def learn(model: Hebbian, dimensions: int, steps: range) -> list[torch.Tensor]:
    update = HebbianUpdate(model)
    outputs = []
    for number in steps:
        rows = torch.randn(5, 2, *[6] * dimensions, generator=generator(number))
        outputs.append(model(rows).detach())
        update.step()
    return outputs


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_both_layouts_learn_the_same(dimensions: int) -> None:
    last, first = network(dimensions, True).double(), network(dimensions, False).double()
    if dimensions in LAYOUTS:
        weight: Any = last.blocks[1].layer.weight
        assert weight.is_contiguous(memory_format=LAYOUTS[dimensions])
        assert not weight.is_contiguous()
    rows = torch.randn(5, 2, *[6] * dimensions, generator=generator(9)).double()
    for model in (last, first):
        update = HebbianUpdate(model)
        for _ in range(3):
            model(rows)
            update.step()
    near: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9, "check_stride": False}
    torch.testing.assert_close(last.state_dict(), first.state_dict(), **near)
    torch.testing.assert_close(last(rows), first(rows), **near)


def test_a_state_of_one_layout_goes_on_in_the_other_and_bit_by_bit_in_its_own() -> None:
    saved, went_on, resumed = network(2, False), network(2, True, seed=1), network(2, True, seed=2)
    learn(saved, 2, range(3))
    went_on.load_state_dict(copied(saved.state_dict()))
    weight: Any = went_on.blocks[1].layer.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(weight, saved.blocks[1].layer.weight)  # type: ignore[arg-type, union-attr]
    learn(went_on, 2, range(3, 5))
    resumed.load_state_dict(copied(went_on.state_dict()))
    for model in (went_on, resumed):
        learn(model, 2, range(5, 7))
    assert_same(copied(resumed.state_dict()), copied(went_on.state_dict()))
