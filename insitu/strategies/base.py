"""The strategy contract: a continual-learning method is one file with up to five verbs.

The trainer calls them in the order of the step, so that a strategy reads like its paper:

    batch = augment(batch)            mix in remembered samples            (replay)
    loss += penalty(batch, outputs)   add to the loss                      (EWC, LwF, DER)
    loss.backward()
    adjust_gradients()                change .grad in place                (A-GEM, GEM)
    optimizer.step()
    observe(observation)              learn from the step                  (memory, Fisher, traces)
    ...
    end_task(task)                    consolidate, between two steps

Strategies change learning and compose: they run in the order of the configuration. Hooks only
watch. Every verb has a default that does nothing. A strategy never reads a clock, never starts
a thread, never forces the device to finish (no `.item()` in the step), and draws random numbers
only from the generator it is given. All it knows is in `state_dict`, under plain names: tensors,
numbers, strings, lists and dicts of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from insitu.batch import Batch
from insitu.errors import OperatorError


@dataclass(frozen=True)
class Observation:
    """What a strategy may learn from after the update.

    Args:
        batch: the rows that were trained, as they came (not normalised), replayed rows last.
        outputs: the model's outputs for these rows before the update, detached.
        losses: (rows,) loss per sample before the update, detached.
        step: number of the step, from 1.
    """

    batch: Batch
    outputs: Tensor
    losses: Tensor
    step: int


class Strategy:
    """A method that does nothing; the base of all others."""

    #: the name in reports and metrics; the trainer sets it from the configuration
    name: str = "strategy"

    def augment(self, batch: Batch) -> Batch:
        """The batch to train on: `batch` itself, or with remembered rows behind it."""
        return batch

    def penalty(self, batch: Batch, outputs: Tensor) -> Tensor | None:
        """A 0-dim tensor to add to the loss, or None. `batch` is normalised, as trained."""
        return None

    def adjust_gradients(self) -> None:
        """Change the parameters' `.grad` in place, after backward and before clipping."""

    def observe(self, observation: Observation) -> None:
        """Learn from a finished step. Not called for a skipped one."""

    def end_task(self, task: int) -> None:
        """Consolidate: the task with this index has ended and all its samples were trained."""

    def metrics(self) -> Mapping[str, Tensor | float]:
        """Figures of interest by short name, read when somebody asks, never in the step."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state; an unknown or missing key is an `OperatorError` that names it."""
        check_state_keys(self.name, state, self.state_dict())


def check_state_keys(name: str, found: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuse a state that lacks a key of our own or has another one."""
    if set(found) != set(own):
        raise OperatorError(
            f"the state of strategy {name!r} holds {', '.join(sorted(found)) or 'nothing'}",
            allowed=", ".join(sorted(own)) or "nothing",
            remedy="resume with the strategies that the checkpoint was written with",
        )
