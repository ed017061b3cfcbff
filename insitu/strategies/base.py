"""The strategy contract: a continual-learning method is one file with up to seven verbs.

The trainer calls them in the order of the step, so that a strategy reads like its paper:

    batch = augment(batch)                     mix in remembered samples       (replay)
    losses = losses(batch, outputs, losses)    weigh or replace the rows' losses   (ER-ACE)
    loss = losses.mean() + penalty(batch, outputs)   add to the loss           (LwF, DER)
    loss.backward()
    adjust_gradients()                         change .grad in place           (A-GEM, EWC)
    optimizer.step()
    adjust_weights()                           change the weights in place     (proximal step)
    observe(observation)                       learn from the update           (memory, SI)
    ...
    end_task(task)                             consolidate, between two steps

Strategies change learning and compose: they run in the order of the configuration. Hooks only
watch. Every verb has a default that does nothing, and the trainer calls only those verbs that a
class overrides. A strategy never reads a clock, never starts a thread, never forces the device to
finish (no `.item()` in the step), and draws random numbers only from the generator it is given.
All it knows is in `state_dict`, under plain names: tensors, numbers, strings, lists and dicts of
these.

A batch may be trained several times in a row (`updates_per_batch`); then all verbs but `end_task`
run in every update, each with the same fresh rows. What must happen once a batch, such as
remembering it, belongs in `observe` where `observation.last` is true.

Adding a strategy is adding one file: `insitu/strategies/NAME.py` with `COMPONENT = TheClass`. The
contract checks, the configuration and `insitu/docs/strategies.md` find it by its name. Its module
docstring is its page: title, paper, equation, deviations, and three paragraphs that begin with
`Costs:`, `Keeps:` and `Use it when:`. `figures` declares every metric. A method that cannot work
with an objective says so in its constructor (`refuse`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

from torch import Tensor

from insitu.batch import Batch
from insitu.errors import OperatorError
from insitu.objectives.base import Objective


@dataclass(frozen=True)
class Observation:
    """What a strategy may learn from after an update.

    Args:
        batch: the rows that were trained, as they came (not normalised), replayed rows last.
        outputs: the model's outputs for these rows before the update, detached.
        losses: (rows,) the objective's loss per sample before the update, detached; what a
            strategy made of it does not show here.
        step: number of the step, from 1.
        last: whether this was the last update on these fresh rows; False in the others of
            `updates_per_batch`.
    """

    batch: Batch
    outputs: Tensor
    losses: Tensor
    step: int
    last: bool = True


class Strategy:
    """A method that does nothing; the base of all others."""

    #: the name in reports and metrics; the trainer sets it from the configuration
    name: str = "strategy"
    #: short name -> unit and meaning of every figure that `metrics` may give
    figures: ClassVar[Mapping[str, str]] = {}

    def augment(self, batch: Batch) -> Batch:
        """The batch to train on: `batch` itself, or with remembered rows behind it."""
        return batch

    def losses(self, batch: Batch, outputs: Tensor, losses: Tensor) -> Tensor:
        """(rows,) losses whose mean is trained; given the objective's, or those of the strategy
        before. `batch` is normalised, as trained."""
        return losses

    def penalty(self, batch: Batch, outputs: Tensor) -> Tensor | None:
        """A 0-dim tensor to add to the loss, or None. `batch` is normalised, as trained."""
        return None

    def adjust_gradients(self) -> None:
        """Change the parameters' `.grad`, after backward and before clipping.

        In place, or by putting a tensor of the strategy's own there, which others may change until
        the update is made.
        """

    def adjust_weights(self) -> None:
        """Change the weights in place, after the optimizer has. Not called for a skipped step."""

    def observe(self, observation: Observation) -> None:
        """Learn from a finished update. Not called for a skipped one."""

    def end_task(self, task: int) -> None:
        """Consolidate: the task with this index has ended and all its samples were trained."""

    def metrics(self) -> Mapping[str, Tensor | float]:
        """Figures by short name (of `figures`), read when somebody asks, never in the step."""
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


def refuse(name: str, objective: Objective, why: str, allowed: str) -> NoReturn:
    """Say that a strategy is not defined for an objective; for constructors."""
    kind = type(objective).__name__
    raise OperatorError(
        f"strategy {name!r} does not work with objective {kind}: {why}",
        allowed=allowed,
        consequence="the service does not start",
        remedy="choose another strategy, or another objective",
    )
