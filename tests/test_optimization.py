"""Optimizers and schedules by name: every one of torch's, and their state through JSON."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler

from insitu.errors import InternalError, OperatorError
from insitu.optimization import (
    Schedule,
    build_optimizer,
    build_schedule,
    load_optimizer_state,
    optimizer_state,
)
from insitu.optimization.optimizers import available_optimizers
from insitu.optimization.schedules import available_schedules
from insitu.optimization.state import plain, restored

OPTIONS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.1, "momentum": 0.9, "nesterov": True},
    "Adam": {"betas": [0.8, 0.99], "amsgrad": True},
    "RMSprop": {"centered": True, "momentum": 0.5},
}
SCHEDULES: dict[str, dict[str, Any]] = {
    "StepLR": {"step_size": 2},
    "MultiStepLR": {"milestones": [2, 4, 4]},
    "ConstantLR": {"total_iters": 3},
    "LinearLR": {"total_iters": 4},
    "ExponentialLR": {"gamma": 0.9},
    "PolynomialLR": {"total_iters": 6},
    "CosineAnnealingLR": {"T_max": 5, "eta_min": 1e-4},
    "CosineAnnealingWarmRestarts": {"T_0": 3, "T_mult": 2},
    "CyclicLR": {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 3},
    "OneCycleLR": {"max_lr": 0.1, "total_steps": 9},
}


class Pair(nn.Module):
    """Two matrices and no vectors, so that Muon takes it too."""

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.first = nn.Parameter(torch.randn(4, 3, generator=draw))
        self.second = nn.Parameter(torch.randn(2, 4, generator=draw))

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.tanh(inputs @ self.first.T) @ self.second.T


def train(
    model: nn.Module, optimizer: Optimizer, steps: range, schedule: Schedule | None = None
) -> list[float]:
    rates = []
    for step in steps:
        inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        torch.autograd.backward((model(inputs) - 1).square().mean())
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if schedule is not None:
            schedule.step()
    return rates


def through_json(state: Any) -> Any:
    """The state as a checkpoint keeps it: tensors apart and copied, all else as JSON text."""
    tensors: list[Tensor] = []

    def take_out(value: Any) -> Any:
        if isinstance(value, Tensor):
            tensors.append(value.clone())
            return {"tensor": len(tensors) - 1}
        if isinstance(value, dict):
            return {key: take_out(item) for key, item in value.items()}
        return [take_out(item) for item in value] if isinstance(value, list) else value

    def put_back(value: Any) -> Any:
        if isinstance(value, dict):
            if set(value) == {"tensor"}:
                return tensors[value["tensor"]]
            return {key: put_back(item) for key, item in value.items()}
        return [put_back(item) for item in value] if isinstance(value, list) else value

    return put_back(json.loads(json.dumps(take_out(state))))


def test_nothing_of_torch_is_forgotten() -> None:
    assert {"Adam", "AdamW", "SGD", "Muon", "RMSprop"} <= set(available_optimizers())
    assert set(available_schedules()) == set(SCHEDULES)
    assert {"LBFGS", "SparseAdam", "Optimizer"}.isdisjoint(available_optimizers())


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("name", available_optimizers())
def test_every_optimizer_resumes_bit_exactly(name: str, named: bool) -> None:
    def make() -> tuple[Pair, Optimizer]:
        model = Pair()
        parameters: Any = model.named_parameters() if named else model.parameters()
        return model, build_optimizer(name, parameters, OPTIONS.get(name, {}))

    through, optimizer = make()
    start = [parameter.clone() for parameter in through.parameters()]
    train(through, optimizer, range(7))
    assert not all(torch.equal(a, b) for a, b in zip(start, through.parameters(), strict=True))

    before, optimizer = make()
    train(before, optimizer, range(4))
    state = through_json(optimizer_state(optimizer))
    assert set(state["parameters"]) <= ({"first", "second"} if named else {"0", "1"})
    resumed, optimizer = make()
    resumed.load_state_dict(before.state_dict())
    kept = through_json(state)
    load_optimizer_state(optimizer, state)
    train(resumed, optimizer, range(4, 7))
    for mine, theirs in zip(resumed.parameters(), through.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    for parameter, slots in kept["parameters"].items():
        for slot, value in slots.items():
            same = torch.equal(value, state["parameters"][parameter][slot])
            assert same, f"training on wrote into the state that was loaded: {slot}"


def test_options_keep_their_types_through_the_state() -> None:
    optimizer = build_optimizer("adam", Pair().named_parameters(), OPTIONS["Adam"])
    before = dict(optimizer.param_groups[0])
    load_optimizer_state(optimizer, through_json(optimizer_state(optimizer)))
    after = optimizer.param_groups[0]
    assert after["betas"] == (0.8, 0.99)
    assert {key: after[key] for key in after if key != "params"} == {
        key: before[key] for key in before if key != "params"
    }


@pytest.mark.parametrize("warmup_steps", [0, 3])
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_is_torchs_own_behind_the_warm_up(name: str, warmup_steps: int) -> None:
    optimizer = torch.optim.SGD(Pair().parameters(), lr=0.05, momentum=0.9)
    reference = getattr(lr_scheduler, name)(optimizer, **SCHEDULES[name])
    wanted = []
    for _ in range(9):
        wanted.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(wanted) < 9:
            reference.step()
    warm = [wanted[0] * (k + 1) / (warmup_steps + 1) for k in range(warmup_steps)]
    model = Pair()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    schedule = build_schedule(name, optimizer, SCHEDULES[name], warmup_steps=warmup_steps)
    rates = train(model, optimizer, range(9 + warmup_steps), schedule)
    assert rates == pytest.approx(warm + wanted, rel=1e-12)
    assert rates[warmup_steps:] == wanted


@pytest.mark.parametrize("cut", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("name", [None, *SCHEDULES])
def test_every_schedule_resumes_bit_exactly(name: str | None, cut: int) -> None:
    def make() -> tuple[Pair, Optimizer, Schedule]:
        model = Pair()
        optimizer = build_optimizer("sgd", model.named_parameters(), {"lr": 0.1, "momentum": 0.9})
        options = SCHEDULES[name] if name else {}
        return model, optimizer, build_schedule(name, optimizer, options, warmup_steps=2)

    model, optimizer, schedule = make()
    wanted = train(model, optimizer, range(14), schedule)
    before, optimizer, schedule = make()
    train(before, optimizer, range(cut), schedule)
    saved = through_json([optimizer_state(optimizer), schedule.state_dict()])
    resumed, optimizer, schedule = make()
    resumed.load_state_dict(before.state_dict())
    load_optimizer_state(optimizer, saved[0])
    schedule.load_state_dict(saved[1])
    assert train(resumed, optimizer, range(cut, 14), schedule) == wanted[cut:]
    assert all(
        torch.equal(a, b) for a, b in zip(resumed.parameters(), model.parameters(), strict=True)
    )
    assert schedule.steps == 14


def test_a_schedule_of_limited_length_keeps_its_last_rate() -> None:
    model = Pair()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = build_schedule("OneCycleLR", optimizer, {"max_lr": 0.1, "total_steps": 5})
    rates = train(model, optimizer, range(12), schedule)
    assert rates[4:] == [rates[4]] * 8
    assert rates[4] == pytest.approx(0.1 / 25 / 1e4)


@settings(max_examples=30, deadline=None)
@given(warmup_steps=st.integers(0, 40), rate=st.floats(1e-6, 10.0))
def test_warm_up_rises_evenly_and_ends_exactly(warmup_steps: int, rate: float) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=rate)
    schedule = Schedule(optimizer, warmup_steps=warmup_steps)
    rates = []
    for _ in range(warmup_steps + 2):
        rates.append(optimizer.param_groups[0]["lr"])
        schedule.step()
    assert all(early < late for early, late in pairwise(rates[:-1]))
    assert rates[0] == pytest.approx(rate / (warmup_steps + 1))
    assert rates[-2:] == [rate, rate]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lbfgs", {}, "LBFGS|lbfgs.*closure"),
        ("SparseAdam", {}, "sparse gradients"),
        ("adamz", {}, "no 'adamz'; allowed: ASGD, .*AdamW"),
        ("optimizer", {}, "no 'optimizer'"),
        ("Adam", {"learning_rate": 1}, "no such option: learning_rate; allowed: lr, betas"),
        ("Adam", {"differentiable": True}, "no such option: differentiable"),
        ("Adam", {"lr": -1.0}, "refuses {'lr': -1.0}: Invalid learning rate"),
        ("Adam", {"lr": "1e-3"}, "lr came as text; YAML takes 1e-3 for text"),
        ("SGD", {"nesterov": True}, "Nesterov momentum requires"),
    ],
)
def test_wrong_optimizers_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OperatorError, match=message):
        build_optimizer(name, Pair().parameters(), options)


def test_muon_says_what_it_takes() -> None:
    with pytest.raises(OperatorError, match="2D"):
        build_optimizer("muon", nn.Linear(2, 2).parameters(), {})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ReduceLROnPlateau", {}, "noise of single batches"),
        ("LambdaLR", {}, "Python function"),
        ("sequentiallr", {}, "warmup_steps"),
        ("cosine", {}, "no 'cosine'; allowed: .*CosineAnnealingLR"),
        ("LRScheduler", {}, "no 'LRScheduler'"),
        ("StepLR", {}, "it needs step_size"),
        ("StepLR", {"step_size": 0}, "refuses {'step_size': 0}: .*zero"),
        ("StepLR", {"step_size": 3, "gama": 0.1}, "no such option: gama"),
        ("CosineAnnealingLR", {"T_max": 5, "eta_min": "1e-5"}, "eta_min came as text"),
        ("CyclicLR", {"base_lr": 0.1, "max_lr": 1.0, "scale_fn": "f"}, "no such option: scale_fn"),
        (None, {"gamma": 0.1}, "and no name"),
    ],
)
def test_wrong_schedules_are_refused(
    name: str | None, options: dict[str, Any], message: str
) -> None:
    optimizer = torch.optim.SGD(Pair().parameters(), lr=0.1)
    with pytest.raises(OperatorError, match=message):
        build_schedule(name, optimizer, options)
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_a_negative_warm_up_is_refused() -> None:
    optimizer = torch.optim.SGD(Pair().parameters(), lr=0.1)
    with pytest.raises(OperatorError, match="warmup_steps of the schedule is -1"):
        build_schedule(None, optimizer, {}, warmup_steps=-1)


def test_states_of_others_are_refused() -> None:
    ours = build_optimizer("adam", Pair().named_parameters(), {})
    for other, message in (
        (build_optimizer("adam", nn.Linear(2, 2).named_parameters(), {}), "weight"),
        (build_optimizer("adam", Pair().parameters(), {}), r"\['0', '1'\]"),
        (build_optimizer("sgd", Pair().named_parameters(), {}), "momentum"),
    ):
        with pytest.raises(OperatorError, match=message):
            load_optimizer_state(ours, optimizer_state(other))
    step = build_schedule("StepLR", ours, {"step_size": 2})
    cosine = build_schedule("CosineAnnealingLR", ours, {"T_max": 2})
    for mine, theirs in ((step, cosine), (step, build_schedule(None, ours, {}))):
        with pytest.raises(OperatorError, match="as StepLR has"):
            mine.load_state_dict(theirs.state_dict())


def test_what_is_not_plain_is_refused() -> None:
    with pytest.raises(InternalError, match="holds a set"):
        plain({"a": [{1}]})


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.tuples(inner, inner)
            | st.dictionaries(st.integers(0, 9), inner, max_size=3)
            | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_plain_and_back_after_its_own_pattern(value: Any) -> None:
    back = restored(json.loads(json.dumps(plain(value))), value)
    assert back == value
    assert repr(back) == repr(value)
