"""Responses of large fully connected layers come from another library, and are the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from insitu.layers.hebbian import HebbianLayer
from insitu.layers.inner_products import inner_products
from insitu.layers.learning_rates import AdaptiveRates
from insitu.layers.linear import HebbianLinear
from insitu.layers.rules.softhebb import SoftHebb
from insitu.layers.update import HebbianUpdate
from learning import generator

#: rows, features, kernels: more than four million products
LARGE = (12, 700, 512)


def case(rows: int, features: int, kernels: int) -> tuple[Tensor, Tensor]:
    draw = generator(0)
    return torch.randn(rows, features, generator=draw), torch.randn(
        kernels, features, generator=draw
    )


def exact(rows: Tensor, weight: Tensor) -> Tensor:
    return rows.double() @ weight.double().t()


@pytest.mark.parametrize("transposed", [False, True])
def test_large_products_are_right_whatever_their_layout(transposed: bool) -> None:
    rows, weight = case(*LARGE)
    if transposed:
        rows = rows.t().contiguous().t()
    with torch.no_grad():
        found = inner_products(rows, weight)
    assert found.layout == torch.strided
    torch.testing.assert_close(found.double(), exact(rows, weight), rtol=1e-5, atol=1e-3)


class Called(TorchDispatchMode):
    """The names of the operators inside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")
def test_only_large_products_go_to_the_other_library() -> None:
    for count, other in ((LARGE[0], True), (1, False)):
        rows, weight = case(count, *LARGE[1:])
        with torch.no_grad(), Called() as called:
            inner_products(rows, weight)
        assert ("aten::mkldnn_linear" in called.names) is other


def test_large_products_of_other_precisions_keep_theirs() -> None:
    rows, weight = case(*LARGE)
    with torch.no_grad():
        found = inner_products(rows.double(), weight.double())
    torch.testing.assert_close(found, exact(rows, weight))


def test_where_a_gradient_is_wanted_large_products_have_one() -> None:
    rows, weight = case(*LARGE)
    rows.requires_grad_()
    torch.autograd.backward(inner_products(rows, weight).sum())
    expected = weight.sum(dim=0).expand_as(rows)
    torch.testing.assert_close(rows.grad, expected, rtol=1e-4, atol=1e-3)


def test_no_rows_give_no_responses() -> None:
    with torch.no_grad():
        assert inner_products(torch.zeros(0, 3000), torch.zeros(2000, 3000)).shape == (0, 2000)


def stepped(layer: HebbianLayer, rows: Tensor) -> HebbianLayer:
    update = HebbianUpdate(layer)
    for _ in range(3):
        layer(rows)
        update.step()
    return layer


def test_a_large_layer_learns_what_it_learns_in_float64() -> None:
    count, features, kernels = LARGE
    layers = [
        HebbianLinear(features, kernels, SoftHebb(), AdaptiveRates(0.05), generator=generator(1))
        for _ in range(2)
    ]
    rows, _ = case(count, features, 1)
    before = layers[0].weight.detach().clone()
    single, double = stepped(layers[0], rows), stepped(layers[1].double(), rows.double())
    torch.testing.assert_close(single.weight.double(), double.weight, rtol=1e-3, atol=1e-3)
    assert (single.weight - before).abs().max() > 0.1


def test_a_row_that_is_not_finite_moves_no_weight_of_a_large_layer() -> None:
    count, features, kernels = LARGE
    layer = HebbianLinear(features, kernels, SoftHebb(), AdaptiveRates(0.05))
    before = layer.weight.detach().clone()
    rows, _ = case(count, features, 1)
    rows[3, 5] = torch.nan
    stepped(layer, rows)
    assert torch.equal(layer.weight, before)
    assert layer.updates == 0
