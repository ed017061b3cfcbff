"""Learning without forgetting: a copy of the model at the end of the last task is the teacher.

Li & Hoiem, "Learning without Forgetting" (2017), equations 2 to 4. With the teacher's logits t for
a row, the model's o, and temperature T,

    loss += strength * mean over rows of  -sum_c softmax(t / T)_c log softmax(o / T)_c

over the classes c that had appeared when the teacher was made. The rows are those that are trained:
nothing is kept of old tasks but the teacher. Where outputs are not logits of classes, the mean
distance between both outputs, as the objective measures it, takes the place of the cross entropy.

Deviations: one head for all tasks, of which the classes seen so far are the old task's outputs; the
paper has a head for each task. No weight decay and no warm-up of a new head, which are the
optimizer's business. The teacher runs in evaluation mode, with running statistics of its own.

Costs: a forward pass over all rows of every update, once a task has ended.

Keeps: a copy of the model's weights and buffers; no samples.

Use it when: samples may not be kept and the inputs of tasks are alike, so that what the teacher
says of new rows tells of old ones. Does little where old classes never look like new ones.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from insitu.batch import Batch
from insitu.criterion import Criterion
from insitu.errors import OperatorError
from insitu.objectives.base import Objective
from insitu.strategies.base import Observation, Strategy, check_state_keys
from insitu.strategies.classes import appearing, logits_of


class LearningWithoutForgetting(Strategy):
    """Holds the outputs for new rows to those of the model at the end of the last task.

    Args:
        criterion: the model, and how it is run.
        objective: says what its outputs are, and how far they are from one another.
    """

    name = "lwf"
    figures: ClassVar[Mapping[str, str]] = {
        "teachers": "how often a task's end has made a new teacher",
        "distillation": "mean over rows of what is added to the loss, before `strength`",
        "classes_held": "classes whose logits the teacher holds; 0 for other outputs",
    }

    def __init__(
        self,
        criterion: Criterion,
        objective: Objective,
        *,
        strength: Annotated[
            float,
            Field(
                ge=0.0,
                description="weight of the distillation (lambda in the paper)",
                json_schema_extra={"unit": "ratio"},
            ),
        ] = 1.0,
        temperature: Annotated[
            float,
            Field(
                gt=0.0,
                description="logits are divided by this, for classes; above 1 small shares count "
                "for more",
                json_schema_extra={"unit": "ratio"},
            ),
        ] = 2.0,
    ) -> None:
        self._criterion = criterion
        self._objective = objective
        self._strength = strength
        self._temperature = temperature
        classes = logits_of(objective)
        self._has_logits = classes is not None
        #: (classes,) bool: what has appeared so far, and what had when the teacher was made
        self.seen = torch.zeros(classes or 0, dtype=torch.bool)
        self.held = self.seen.clone()
        self.teachers = 0
        #: tasks that were trained and have not ended since
        self._running: set[int] = set()
        self._teacher: Criterion | None = None
        self._distillation: Tensor | None = None

    def penalty(self, batch: Batch, outputs: Tensor) -> Tensor | None:
        if self._teacher is None:
            return None
        with torch.no_grad():
            taught = self._teacher.outputs(batch)
        if len(outputs) != len(taught):
            return None
        distance = self._distances(outputs.to(torch.float32), taught.to(torch.float32)).mean()
        self._distillation = distance.detach()
        return self._strength * distance

    def _distances(self, outputs: Tensor, taught: Tensor) -> Tensor:
        """(rows,)"""
        if not self._has_logits:
            return self._objective.distances(outputs, taught)
        # a share of 0 times a logarithm of -inf would be NaN
        if self.held.device != outputs.device:
            self.held = self.held.to(outputs.device)
        out = ~self.held
        shares = (taught / self._temperature).masked_fill(out, -1e30).softmax(1)
        log_shares = (outputs / self._temperature).masked_fill(out, -1e30).log_softmax(1)
        return -(shares * log_shares).sum(1)

    def observe(self, observation: Observation) -> None:
        batch = observation.batch
        self._running.update(batch.fresh_tasks())
        if self._has_logits:
            labels = self._objective.labels(batch)
            assert labels is not None  # see `logits_of`
            present = appearing(labels, len(self.seen))
            self.seen = self.seen.to(present.device) | present

    def end_task(self, task: int) -> None:
        """Make the model the teacher, if the task had samples since it last ended."""
        if task not in self._running:
            return
        self._running.remove(task)
        self._teacher = self._copied()
        self.held = self.seen.clone()
        self.teachers += 1

    def _copied(self) -> Criterion:
        real = self._criterion
        module = copy.deepcopy(real.module).eval()
        return Criterion(module, real.objective, real.normaliser, precision=real.precision)

    def metrics(self) -> Mapping[str, Tensor | float]:
        distillation = 0.0 if self._distillation is None else self._distillation
        return {
            "teachers": float(self.teachers),
            "distillation": distillation,
            "classes_held": self.held.sum(),
        }

    def state_dict(self) -> dict[str, Any]:
        teacher = self._teacher
        return {
            "teacher": {} if teacher is None else dict(teacher.module.state_dict()),
            "teachers": self.teachers,
            "seen": self.seen,
            "held": self.held,
            "running_tasks": sorted(self._running),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        check_state_keys(self.name, state, self.state_dict())
        self._teacher = None
        if state["teacher"]:
            teacher = self._copied()
            _load(teacher.module, state["teacher"])
            self._teacher = teacher
        self.teachers = int(state["teachers"])
        self.seen = state["seen"].to(self.seen.device, copy=True)
        self.held = state["held"].to(self.held.device, copy=True)
        self._running = {int(task) for task in state["running_tasks"]}


def _load(module: torch.nn.Module, weights: Mapping[str, Tensor]) -> None:
    try:
        module.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise OperatorError(
            f"the state of strategy 'lwf' has a teacher that is not this model: {error}",
            remedy="resume with the model that the checkpoint was written with",
        ) from None


COMPONENT = LearningWithoutForgetting
