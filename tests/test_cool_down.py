"""Schedules for a stream without end: cool-down on command, and one-cycle that repeats."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from insitu.errors import OperatorError
from insitu.optimization import Schedule, build_schedule
from learning import assert_same, copied

SCHEDULES: dict[str | None, dict[str, Any]] = {
    None: {},
    "ExponentialLR": {"gamma": 0.9},
    "CosineAnnealingLR": {"T_max": 7},
    "CyclicLR": {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 3, "cycle_momentum": False},
    "OneCycleLR": {"max_lr": 0.3, "total_steps": 9},
}


def made(name: str | None, **options: Any) -> tuple[torch.optim.Optimizer, Schedule]:
    parameters = [{"params": [torch.zeros(1)], "lr": rate} for rate in (0.1, 0.02)]
    optimizer = torch.optim.SGD(parameters, momentum=0.9)
    return optimizer, build_schedule(name, optimizer, SCHEDULES[name], **options)


def settings_of(optimizer: torch.optim.Optimizer) -> list[tuple[float, float]]:
    return [(group["lr"], group["momentum"]) for group in optimizer.param_groups]


def rates(optimizer: torch.optim.Optimizer, schedule: Schedule, steps: int) -> list[Any]:
    """Rates and momenta that the next steps train at."""
    found = []
    for _ in range(steps):
        found.append(settings_of(optimizer))
        optimizer.step()
        schedule.step()
    return found


@given(
    st.sampled_from(list(SCHEDULES)),
    st.integers(0, 12),
    st.integers(1, 9),
    st.sampled_from((0, 4)),
)
def test_rates_fall_on_a_line_and_the_schedule_goes_on_where_it_was(
    name: str | None, before: int, length: int, warmup_steps: int
) -> None:
    optimizer, schedule = made(name, warmup_steps=warmup_steps)
    twin = made(name, warmup_steps=warmup_steps)
    assert rates(optimizer, schedule, before) == rates(*twin, before)
    start = settings_of(optimizer)
    schedule.cool_down(length)
    cooled = rates(optimizer, schedule, length)
    for k, step in enumerate(cooled, 1):
        for (rate, momentum), (first, usual) in zip(step, start, strict=True):
            assert rate == pytest.approx(first * (length - k + 1) / (length + 1))
            assert momentum == usual
    assert not schedule.is_cooling
    assert schedule.cool_downs == 1
    assert rates(optimizer, schedule, 15) == rates(*twin, 15)  # to the bit


def test_a_cool_down_is_restored_in_the_middle() -> None:
    one, other = made("ExponentialLR"), made("ExponentialLR")
    one[1].cool_down(6)
    rates(*one, 2)
    other[1].load_state_dict(copied(one[1].state_dict()))
    for group, saved in zip(other[0].param_groups, one[0].param_groups, strict=True):
        group["lr"] = saved["lr"]
    assert other[1].is_cooling
    assert rates(*other, 8) == rates(*one, 8)
    assert_same(copied(other[1].state_dict()), copied(one[1].state_dict()))


def test_a_second_cool_down_meanwhile_and_one_of_no_steps_are_refused() -> None:
    _, schedule = made(None)
    with pytest.raises(OperatorError, match="cool-down of 0 steps"):
        schedule.cool_down(0)
    assert not schedule.is_cooling
    schedule.cool_down(3)
    with pytest.raises(OperatorError, match="another is in progress"):
        schedule.cool_down(3)


@pytest.mark.parametrize("warmup_steps", [0, 3])
def test_one_cycle_repeats_and_each_cycle_equals_the_first(warmup_steps: int) -> None:
    optimizer, schedule = made("OneCycleLR", repeat=True, warmup_steps=warmup_steps)
    found = rates(optimizer, schedule, warmup_steps + 4 * 9)[warmup_steps:]
    cycles = [found[start : start + 9] for start in range(0, 36, 9)]
    assert cycles[1:] == cycles[:1] * 3
    optimizer, schedule = made("OneCycleLR")
    assert cycles[0] == rates(optimizer, schedule, 9)
    # torch's own cycle in the momentum, too
    assert len({momentum for step in cycles[0] for _, momentum in step}) > 2


def test_a_repeating_schedule_is_restored_in_a_later_cycle() -> None:
    one, other = (made("OneCycleLR", repeat=True) for _ in range(2))
    rates(*one, 13)
    other[1].load_state_dict(copied(one[1].state_dict()))
    for group, saved in zip(other[0].param_groups, one[0].param_groups, strict=True):
        group.update({key: saved[key] for key in ("lr", "momentum")})
    assert rates(*other, 20) == rates(*one, 20)


@pytest.mark.parametrize("name", [None, "ExponentialLR", "CyclicLR"])
def test_what_has_no_end_cannot_repeat(name: str | None) -> None:
    with pytest.raises(OperatorError, match="no end to begin anew from"):
        made(name, repeat=True)
