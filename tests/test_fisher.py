"""Powers of per-sample gradients against a plain loop over samples, and the kinds of Fisher."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from insitu.batch import Batch
from insitu.errors import InternalError, OperatorError
from insitu.objectives.base import Objective
from insitu.objectives.classify import Classify
from insitu.objectives.regress import Regress
from insitu.schema import Schema
from insitu.strategies import per_sample
from insitu.strategies.fisher import check_estimate, fisher_diagonal
from insitu.strategies.per_sample import sums_of_powers
from learning import generator

RTOL = 1e-6


def squared_length(module: nn.Module, rows: Mapping[str, Tensor]) -> Tensor:
    return module(rows["x"]).sin().flatten(1).sum(1)


def loop(module: nn.Module, x: Tensor, power: int) -> dict[str, Tensor]:
    """The plain reference: one backward a sample."""
    named = {n: p for n, p in module.named_parameters() if p.requires_grad}
    sums = {name: torch.zeros_like(p) for name, p in named.items()}
    for row in x:
        module.zero_grad()
        module(row[None]).sin().sum().backward()
        for name, parameter in named.items():
            if parameter.grad is not None:
                sums[name] += parameter.grad.abs() ** power
    module.zero_grad()
    return sums


class Tied(nn.Module):
    """An encoder whose weights are used a second time, behind the layer's back."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(self.layer(x).tanh(), self.layer.weight.T)


class Twice(nn.Module):
    """A layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(self.layer(x).tanh())
        return result


class Recurrent(nn.Module):
    """Nothing that vmap can do."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(3, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.cell(x)[0][:, -1]
        return result


class Unused(nn.Module):
    """A layer that never runs, and one that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle, self.frozen = nn.Linear(5, 3), nn.Linear(2, 2), nn.Linear(3, 3)
        self.frozen.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.frozen(self.used(x).relu())
        return result


def statistics(module: nn.Module) -> nn.Module:
    """Running statistics that are not those of the start."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.running_mean.normal_()  # type: ignore[union-attr]
            part.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
            part.weight.data.normal_()
    return module


#: name -> makes a model whose layers all have a formula, shape of its input
PLAIN = {
    "dense": (
        lambda: nn.Sequential(nn.Linear(5, 7), nn.ReLU(inplace=True), nn.Linear(7, 3, bias=False)),
        (5,),
    ),
    "sequence": (
        lambda: nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 2)),
        (4, 3),
    ),
    "grid": (lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm((2, 4))), (3, 2, 3)),
    "conv1d": (
        lambda: nn.Sequential(nn.Conv1d(2, 4, 3, stride=2, dilation=2, padding=1), nn.Tanh()),
        (2, 11),
    ),
    "conv2d": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, (3, 1), padding="same", bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
            nn.Conv2d(4, 6, 3, stride=(2, 1), padding=(1, 2), groups=2),
            nn.GroupNorm(3, 6),
            nn.Flatten(),
            nn.Linear(6 * 3 * 7, 2),
        ),
        (3, 5, 5),
    ),
    "circular": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"), nn.Tanh()),
        (1, 4, 4),
    ),
    "depthwise": (lambda: nn.Sequential(nn.Conv2d(3, 6, 2, groups=3), nn.Sigmoid()), (3, 4, 4)),
    "conv3d": (lambda: nn.Sequential(nn.Conv3d(1, 2, 2, stride=2), nn.Tanh()), (1, 4, 5, 4)),
    "unused": (Unused, (5,)),
}

#: models for which single gradients are needed
OTHERS = {
    "tied": (Tied, (5,)),
    "twice": (Twice, (5,)),
    "recurrent": (Recurrent, (4, 3)),
    "transposed": (lambda: nn.Sequential(nn.ConvTranspose2d(2, 3, 2), nn.Tanh()), (2, 3, 3)),
    "shared": (lambda: shared(), (5,)),
}


def shared() -> nn.Module:
    module = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5))
    module[2].weight = module[0].weight
    return module


def made(name: str) -> tuple[nn.Module, Tensor]:
    make, shape = {**PLAIN, **OTHERS}[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return statistics(make().double()).eval(), torch.randn(9, *shape, dtype=torch.float64)


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("workspace_bytes", [1, 2**28], ids=["ones", "whole"])
@pytest.mark.parametrize("name", [*PLAIN, *OTHERS])
def test_they_are_those_of_a_loop_over_samples(name: str, workspace_bytes: int, power: int) -> None:
    module, x = made(name)
    found = sums_of_powers(
        module, squared_length, {"x": x}, power=power, workspace_bytes=workspace_bytes
    )
    expected = loop(module, x, power)
    assert found.keys() == expected.keys()
    for parameter, value in expected.items():
        torch.testing.assert_close(found[parameter], value, rtol=RTOL, atol=1e-12)
    assert max(value.max().item() for value in found.values()) > 1e-3


def without_single_gradients(*_arguments: object) -> dict[str, Tensor]:
    raise AssertionError("gradients were taken one a sample")


@pytest.mark.parametrize("name", list(PLAIN))
def test_plain_models_need_no_single_gradients(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(per_sample, "_one_by_one", without_single_gradients)
    module, x = made(name)
    assert sums_of_powers(module, squared_length, {"x": x}, power=2)


@pytest.mark.parametrize("name", list(OTHERS))
def test_other_models_do(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(per_sample, "_one_by_one", without_single_gradients)
    module, x = made(name)
    with pytest.raises(AssertionError, match="one a sample"):
        sums_of_powers(module, squared_length, {"x": x}, power=2)


def test_many_rows_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = made("conv2d")
    whole = sums_of_powers(module, squared_length, {"x": x}, power=2)
    monkeypatch.setattr(per_sample, "ROWS_AT_ONCE", 4)
    in_parts = sums_of_powers(module, squared_length, {"x": x}, power=2)
    for name, value in whole.items():
        torch.testing.assert_close(in_parts[name], value)


def test_no_samples_are_refused() -> None:
    module, x = made("dense")
    with pytest.raises(InternalError, match="0 samples"):
        sums_of_powers(module, squared_length, {"x": x[:0]}, power=2)


def test_the_module_is_left_as_it_was() -> None:
    module, x = made("conv2d")
    module.train()
    before = {name: t.clone() for name, t in module.state_dict().items()}
    sums_of_powers(module, squared_length, {"x": x}, power=2)
    assert all(part.training for part in module.modules())
    assert all(torch.equal(before[name], t) for name, t in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())
    assert not any(part._forward_hooks for part in module.modules())


def classifier() -> tuple[nn.Module, Classify, Batch]:
    schema = Schema.of({"x": ("float32", (3,)), "y": ("int64", ())})
    torch.manual_seed(0)
    batch = Batch.of({"x": torch.randn(4, 3), "y": torch.tensor([0, 0, 0, 0])})
    return nn.Linear(3, 3), Classify(schema, classes=3), batch


def test_drawn_targets_give_the_fisher_information_proper() -> None:
    """The mean over many draws is the expectation over labels, sum_y p(y) (d log p(y) / d w)^2."""
    module, objective, batch = classifier()
    x = batch.fields["x"]
    shares = module(x).softmax(1).detach()
    expected = torch.zeros(3, 3)
    for row, share in zip(x, shares, strict=True):
        for label in range(3):
            error = share - nn.functional.one_hot(torch.tensor(label), 3)
            expected += share[label] * torch.outer(error, row).square() / len(x)
    draws = 4000
    many = Batch.of({name: field.repeat(draws, *[1] * (field.dim() - 1))
                     for name, field in batch.fields.items()})  # fmt: skip
    drawn = fisher_diagonal(module, objective, many, estimate="drawn", generator=generator(0))
    torch.testing.assert_close(drawn["weight"], expected, rtol=0.05, atol=0.0)
    exact = fisher_diagonal(module, objective, batch)["weight"]
    assert not torch.allclose(exact, expected, rtol=0.05, atol=0.0)


def test_drawn_targets_follow_the_generator() -> None:
    module, objective, batch = classifier()
    first, again, other = (
        fisher_diagonal(module, objective, batch, estimate="drawn", generator=generator(seed))
        for seed in (0, 0, 3)
    )
    assert torch.equal(first["weight"], again["weight"])
    assert not torch.equal(first["weight"], other["weight"])


class TogetherOnly(Regress):
    """A loss that compares rows."""

    row_by_row = False


class NoLikelihood(Regress):
    """A loss that is no log likelihood."""

    is_likelihood = False


REGRESS = Schema.of({"x": ("float32", (3,)), "y": ("float32", (2,))})


@pytest.mark.parametrize(
    ("objective", "estimate", "why"),
    [
        (TogetherOnly(REGRESS), "exact", "the other rows"),
        (TogetherOnly(REGRESS), "drawn", "the other rows"),
        (NoLikelihood(REGRESS), "drawn", "no log likelihood"),
    ],
)
def test_what_an_objective_does_not_allow_is_refused(
    objective: Objective, estimate: str, why: str
) -> None:
    with pytest.raises(OperatorError, match=rf"'ewc'.*{type(objective).__name__}.*{why}"):
        check_estimate("ewc", objective, estimate)


def test_the_mean_of_a_batch_is_always_allowed() -> None:
    check_estimate("ewc", TogetherOnly(REGRESS), "batch_mean")
    check_estimate("ewc", NoLikelihood(REGRESS), "exact")
