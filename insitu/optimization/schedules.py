"""Any learning-rate schedule of torch by name, behind an optional linear warm-up.

A stream has steps and no epochs, so a schedule moves once a training step: where torch's
documentation says epoch, read step. Left out, with the reason in the error: schedules that need
Python functions or other schedules as arguments, and ReduceLROnPlateau, which would make the
device wait for the loss at every step and mistake the noise of single batches for a plateau.

A stream has no known end, so the two schedules that live from one get what they need. One-cycle
("super-convergence", Smith and Topin, 2018) can *repeat*: when its last step is done it begins
anew. And any schedule can *cool down* on command: over n steps the rates fall on a straight line
to nearly nothing, where the weights are at their best for a checkpoint; then the schedule goes on
where it was. That is the trapezoidal schedule of Haegele et al., "Scaling Laws and Compute-Optimal
Training Beyond Fixed Training Durations", 2024, except that training goes on from the cooled
weights.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from insitu.errors import OperatorError
from insitu.optimization.options import checked_options, find_class, refusal
from insitu.optimization.state import plain, restored

_REFUSED = {
    "ReduceLROnPlateau": "it needs the loss on the host at every step and reacts to the noise of "
    "single batches",
    "LambdaLR": "it needs a Python function",
    "MultiplicativeLR": "it needs a Python function",
    "SequentialLR": "it needs other schedules; for a warm-up set warmup_steps",
    "ChainedScheduler": "it needs other schedules; for a warm-up set warmup_steps",
}
_RESERVED = ("optimizer", "last_epoch", "verbose", "scale_fn")


@dataclass
class CoolDown:
    """A cool-down in progress: its steps, those done, and the rates to come back to."""

    steps: int
    done: int
    rates: list[float]


class Schedule:
    """Moves the learning rates of an optimizer, one training step at a time.

    With w warm-up steps, step k (from 0) trains at (k + 1) / (w + 1) of the schedule's first
    rate; step w is the schedule's first. A schedule of limited length (OneCycleLR) keeps its
    last rate from there on, since streams have no known end.

    Args:
        optimizer: whose rates are set.
        scheduler: of torch, already made for this optimizer; None: constant rates.
        warmup_steps: steps of linear warm-up, 0 for none.
        repeat: begin anew after the last step of a schedule of limited length; the warm-up is
            not repeated.

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        >>> schedule, rates = Schedule(optimizer, None, warmup_steps=3), []
        >>> for _ in range(5):
        ...     rates.append(optimizer.param_groups[0]["lr"])
        ...     optimizer.step()
        ...     schedule.step()
        >>> rates
        [0.25, 0.5, 0.75, 1.0, 1.0]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        scheduler: LRScheduler | None = None,
        *,
        warmup_steps: int = 0,
        repeat: bool = False,
    ) -> None:
        if warmup_steps < 0:
            raise OperatorError(
                f"warmup_steps of the schedule is {warmup_steps}", allowed="0 steps or more"
            )
        if repeat and getattr(scheduler, "total_steps", None) is None:
            name = "no schedule" if scheduler is None else type(scheduler).__name__
            raise OperatorError(
                f"schedule.repeat is set for {name}, which has no end to begin anew from",
                allowed="OneCycleLR",
                remedy="use OneCycleLR, or a schedule that is periodic by itself (CyclicLR, "
                "CosineAnnealingWarmRestarts)",
            )
        self.steps = 0
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._warmup_steps = warmup_steps
        self._first_rates = [group["lr"] for group in optimizer.param_groups]
        self._beginning = _settings(optimizer, scheduler) if repeat else None
        self._cooling: CoolDown | None = None
        #: cool-downs that were carried out
        self.cool_downs = 0
        if warmup_steps:
            self._warm_up()

    def step(self) -> None:
        """Set the rates of the next training step. Call it after an update, not a skipped one."""
        if self._cooling is not None:
            self._cool(self._cooling)
            return
        self.steps += 1
        if self.steps <= self._warmup_steps:
            self._warm_up()
        elif self._scheduler is not None and not self._at_end(self._scheduler):
            self._scheduler.step()
        elif self._scheduler is not None and self._beginning is not None:
            _set(self._optimizer, self._scheduler, self._beginning)

    @property
    def is_cooling(self) -> bool:
        """Whether a cool-down is in progress."""
        return self._cooling is not None

    def cool_down(self, steps: int) -> None:
        """Let the rates fall on a straight line; afterwards the schedule goes on where it was.

        Of the n steps that follow, step k (from 1) trains at (n - k + 1) / (n + 1) of the rates
        now in force, the mirror image of the warm-up.

        Raises:
            OperatorError: `steps` is below 1, or a cool-down is in progress.

        Example:
            >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
            >>> schedule, rates = Schedule(optimizer), []
            >>> schedule.cool_down(3)
            >>> for _ in range(5):
            ...     rates.append(optimizer.param_groups[0]["lr"])
            ...     schedule.step()
            >>> rates
            [0.75, 0.5, 0.25, 1.0, 1.0]
        """
        if steps < 1 or self._cooling is not None:
            busy = ", while another is in progress" if self._cooling is not None else ""
            raise OperatorError(
                f"a cool-down of {steps} steps is asked for{busy}",
                allowed="1 step or more, one cool-down at a time",
                consequence="the learning rate stays as it is",
            )
        rates = [float(group["lr"]) for group in self._optimizer.param_groups]
        self._cooling = CoolDown(steps, 0, rates)
        self._set_rates(rates, steps / (steps + 1))

    def _cool(self, cooling: CoolDown) -> None:
        cooling.done += 1
        if cooling.done == cooling.steps:
            self._cooling = None
            self.cool_downs += 1
            self._set_rates(cooling.rates, 1.0)
        else:
            left = cooling.steps - cooling.done
            self._set_rates(cooling.rates, left / (cooling.steps + 1))

    def _set_rates(self, rates: Sequence[float], share: float) -> None:
        for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * share

    def _warm_up(self) -> None:
        # A product would not end at exactly the first rate, where the schedule takes over.
        done = self.steps == self._warmup_steps
        share = (self.steps + 1) / (self._warmup_steps + 1)
        for group, rate in zip(self._optimizer.param_groups, self._first_rates, strict=True):
            group["lr"] = rate if done else rate * share

    @staticmethod
    def _at_end(scheduler: LRScheduler) -> bool:
        total_steps = getattr(scheduler, "total_steps", None)
        return total_steps is not None and scheduler.last_epoch >= total_steps - 1

    def state_dict(self) -> dict[str, Any]:
        """Plain data. The rates in force are part of the optimizer's state."""
        scheduler = None if self._scheduler is None else plain(self._scheduler.state_dict())
        return {
            "steps": self.steps,
            "first_rates": self._first_rates,
            "scheduler": scheduler,
            "cool_downs": self.cool_downs,
            "cooling": None if self._cooling is None else asdict(self._cooling),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        own = None if self._scheduler is None else self._scheduler.state_dict()
        found = state["scheduler"]
        if (own is None) != (found is None) or set(own or ()) != set(found or ()):
            raise OperatorError(
                f"the state of the schedule holds {sorted(found or ())}",
                allowed=f"{sorted(own or ())}, as {type(self._scheduler).__name__} has",
                remedy="resume with the schedule that the checkpoint was written with",
            )
        self.steps = int(state["steps"])
        self._first_rates = list(state["first_rates"])
        self.cool_downs = int(state["cool_downs"])
        cooling = state["cooling"]
        self._cooling = None if cooling is None else CoolDown(**cooling)
        if self._scheduler is not None:
            self._scheduler.load_state_dict(restored(found, own))


def available_schedules() -> dict[str, type[LRScheduler]]:
    """What torch.optim.lr_scheduler has, less what cannot work on a stream."""
    return {
        name: value
        for name, value in sorted(vars(lr_scheduler).items())
        if inspect.isclass(value)
        and issubclass(value, LRScheduler)
        and name not in ("LRScheduler", "_LRScheduler", *_REFUSED)
    }


def build_schedule(
    name: str | None,
    optimizer: Optimizer,
    options: Mapping[str, Any],
    *,
    warmup_steps: int = 0,
    repeat: bool = False,
) -> Schedule:
    """A schedule of torch, stepped once a training step.

    Args:
        name: of a class in torch.optim.lr_scheduler, in any case; None: constant rates.
        optimizer: whose rates are set.
        options: keyword arguments of the class; its epochs are steps.
        warmup_steps: steps of linear warm-up before the schedule, 0 or more.
        repeat: begin anew at the end of a schedule of limited length (OneCycleLR).

    Raises:
        OperatorError: no such schedule or option, or values that torch refuses, be it at
            construction or in the first steps (a period of 0).

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
        >>> schedule = build_schedule("CosineAnnealingLR", optimizer, {"T_max": 10_000})
    """
    if name is None:
        if options:
            raise OperatorError(
                f"schedule has the options {dict(options)} and no name",
                allowed=", ".join(available_schedules()),
            )
        return Schedule(optimizer, None, warmup_steps=warmup_steps, repeat=repeat)
    target = find_class("schedule", name, available_schedules(), _REFUSED)
    checked = checked_options("schedule", target, options, _RESERVED)
    try:
        _try_out(target, checked)
        scheduler = target(optimizer, **checked)
    except Exception as error:
        raise refusal("schedule", target, options, error) from error
    return Schedule(optimizer, scheduler, warmup_steps=warmup_steps, repeat=repeat)


def _settings(optimizer: Optimizer, scheduler: LRScheduler | None) -> dict[str, Any]:
    """What a schedule moves: its own state, and the rates and momenta of the groups."""
    moved = ("lr", "momentum", "betas")
    groups = [
        {key: group[key] for key in moved if key in group} for group in optimizer.param_groups
    ]
    own = {} if scheduler is None else scheduler.state_dict()
    return {"scheduler": deepcopy(own), "groups": groups}


def _set(optimizer: Optimizer, scheduler: LRScheduler, settings: Mapping[str, Any]) -> None:
    scheduler.load_state_dict(deepcopy(settings["scheduler"]))
    for group, first in zip(optimizer.param_groups, settings["groups"], strict=True):
        group.update(first)


def _try_out(target: type[LRScheduler], options: Mapping[str, Any]) -> None:
    """Some wrong values only fail in a step, which would be after hours of a simulation."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1, momentum=0.9)
    schedule = Schedule(optimizer, target(optimizer, **options))
    for _ in range(2):
        optimizer.step()
        schedule.step()
