"""Any learning-rate schedule of torch by name, behind an optional linear warm-up.

A stream has steps and no epochs, so a schedule moves once a training step: where torch's
documentation says epoch, read step. Left out, with the reason in the error: schedules that need
Python functions or other schedules as arguments, and ReduceLROnPlateau, which would make the
device wait for the loss at every step and mistake the noise of single batches for a plateau.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
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


class Schedule:
    """Moves the learning rates of an optimizer, one training step at a time.

    With w warm-up steps, step k (from 0) trains at (k + 1) / (w + 1) of the schedule's first
    rate; step w is the schedule's first. A schedule of limited length (OneCycleLR) keeps its
    last rate from there on, since streams have no known end.

    Args:
        optimizer: whose rates are set.
        scheduler: of torch, already made for this optimizer; None: constant rates.
        warmup_steps: steps of linear warm-up, 0 for none.

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
        self, optimizer: Optimizer, scheduler: LRScheduler | None = None, *, warmup_steps: int = 0
    ) -> None:
        if warmup_steps < 0:
            raise OperatorError(
                f"warmup_steps of the schedule is {warmup_steps}", allowed="0 steps or more"
            )
        self.steps = 0
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._warmup_steps = warmup_steps
        self._first_rates = [group["lr"] for group in optimizer.param_groups]
        if warmup_steps:
            self._warm_up()

    def step(self) -> None:
        """Set the rates of the next training step. Call it after an update, not a skipped one."""
        self.steps += 1
        if self.steps <= self._warmup_steps:
            self._warm_up()
        elif self._scheduler is not None and not self._at_end(self._scheduler):
            self._scheduler.step()

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
        return {"steps": self.steps, "first_rates": self._first_rates, "scheduler": scheduler}

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
    name: str | None, optimizer: Optimizer, options: Mapping[str, Any], *, warmup_steps: int = 0
) -> Schedule:
    """A schedule of torch, stepped once a training step.

    Args:
        name: of a class in torch.optim.lr_scheduler, in any case; None: constant rates.
        optimizer: whose rates are set.
        options: keyword arguments of the class; its epochs are steps.
        warmup_steps: steps of linear warm-up before the schedule, 0 or more.

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
        return Schedule(optimizer, None, warmup_steps=warmup_steps)
    target = find_class("schedule", name, available_schedules(), _REFUSED)
    checked = checked_options("schedule", target, options, _RESERVED)
    try:
        _try_out(target, checked)
        scheduler = target(optimizer, **checked)
    except Exception as error:
        raise refusal("schedule", target, options, error) from error
    return Schedule(optimizer, scheduler, warmup_steps=warmup_steps)


def _try_out(target: type[LRScheduler], options: Mapping[str, Any]) -> None:
    """Some wrong values only fail in a step, which would be after hours of a simulation."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1, momentum=0.9)
    schedule = Schedule(optimizer, target(optimizer, **options))
    for _ in range(2):
        optimizer.step()
        schedule.step()
