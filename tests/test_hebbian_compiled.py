"""Compiled Hebbian layers learn what eager ones learn, in either layout."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hebbian import layer, rows_for
from insitu.layers.block import HebbianBlock
from insitu.layers.rules import competition
from insitu.layers.update import HebbianUpdate
from learning import generator

LABELS = torch.tensor([2, 0, -1, 4])
NEAR: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-11, "check_stride": False}
#: one graph, run by the plain operators
TRACED: dict[str, Any] = {"backend": "eager", "fullgraph": True}


@pytest.fixture(autouse=True)
def forget_graphs() -> Iterator[None]:
    yield
    torch.compiler.reset()


def whole_step(net: nn.Module) -> Callable[[Tensor], Tensor]:
    update = HebbianUpdate(net)

    def step(rows: Tensor) -> Tensor:
        with update.recording(LABELS):
            features: Tensor = net(rows)
        update.step()
        return features

    return step


@pytest.mark.parametrize(
    ("dimensions", "name", "layout"),
    [
        (0, "softhebb", torch.contiguous_format),
        (2, "softhebb", torch.contiguous_format),
        (2, "softhebb", torch.channels_last),
        (2, "instar", torch.channels_last),
        (2, "supervised_soft", torch.channels_last),
    ],
)
def test_a_step_is_one_graph_that_learns_the_same_and_no_bad_batch_poisons_it(
    dimensions: int, name: str, layout: torch.memory_format
) -> None:
    options = {"padding": 1} if dimensions else {"channels": 4}
    plain, made = (layer(dimensions, by=name, **options).double() for _ in range(2))
    if dimensions:
        made.to(memory_format=layout)  # type: ignore[call-overload]
    eager, traced = whole_step(plain), torch.compile(whole_step(made), **TRACED)
    first, second = (rows_for(plain, seed=seed) for seed in range(2))
    bad = first.index_fill(0, torch.tensor([1]), torch.nan)
    for rows in (first, bad, second):
        expected = eager(rows)
        found = traced(rows.contiguous(memory_format=layout) if dimensions else rows)
        torch.testing.assert_close(found, expected, equal_nan=True, **NEAR)
        torch.testing.assert_close(made.state_dict(), plain.state_dict(), **NEAR)
    assert made.updates == 2


def test_competition_in_a_graph() -> None:
    """Equal kernels included, of which the first wins; channels last stay so."""

    def compete(u: Tensor) -> list[Tensor]:
        shares = (kind(u, 0.3) for kind in (competition.soft_shares, competition.signed_shares))
        return [competition.one_hot(u), *shares]

    u = torch.randint(0, 3, (2, 7, 5, 4), generator=generator(0)).float()
    u = u.contiguous(memory_format=torch.channels_last)
    for found, expected in zip(torch.compile(compete, **TRACED)(u), compete(u), strict=True):
        torch.testing.assert_close(found, expected)
        assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.timeout(300)
def test_compiled_by_the_compiler() -> None:
    plain, made = (
        HebbianBlock(layer(2, kernels=17, padding=1).to(memory_format=torch.channels_last))  # type: ignore[arg-type, call-overload]
        for _ in range(2)
    )
    eager = whole_step(plain)
    compiled = torch.compile(whole_step(made), fullgraph=True, dynamic=False)
    for seed in range(3):
        rows = rows_for(plain.layer, seed=seed).contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(compiled(rows), eager(rows), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(made.state_dict(), plain.state_dict(), rtol=1e-4, atol=1e-5)
    assert made.layer.updates == 3
