"""GEM: no step may raise the loss on any former task, to first order.

Lopez-Paz and Ranzato, "Gradient Episodic Memory for Continual Learning" (2017), eq. 8 to 11. With g
the gradient of the step and r_k that of the mean loss over the memory of task k, for every task
that is not in the fresh rows,

    v <- argmin 1/2 v'RR'v + (R g)'v  over v >= margin     adjust_gradients, if any <g, r_k> < 0
    g <- g + R'v
    memory of task t <- fresh rows of task t               observe

The programme is solved exactly, see `insitu.strategies.quadratic_programme`.

One capacity is divided by `most_tasks`: each task has a reservoir of capacity // most_tasks
samples, made when its first sample arrives. Tasks beyond that are trained like all others but
neither remembered nor protected; `unprotected_samples` counts theirs.

Deviations: no boundary is needed, any number of tasks may run side by side. The memory of a task is
a uniform sample of it, not its last samples. r_k is taken over `reference_samples` of it, drawn
anew for every step, where the paper takes all; a number as large as the reservoir is the paper's.
The margin is the lower bound of v, as in the authors' code, which keeps all constraints; v* +
margin, as their text has it, does not. `per: tensor` is ours: a programme for every parameter
tensor. A reference gradient of zero is ignored; where one is not finite the step is not either, and
the trainer refuses it.

Costs: one more forward and backward pass over `reference_samples` rows for every former task; the
Gram matrix and the sum read all gradients once each. With more than 6 former tasks a GPU has to
finish for the programme, which is then solved on the CPU.

Keeps: the samples of every task, and one gradient a task.

Use it when: there are few tasks and each of them must be held, at a cost that grows with their
number: with 3 former tasks a step takes 1.7 times as long as four plain ones (784-400-400-10
perceptron, 64 rows each). It needs tasks, of producers or of detected boundaries: on a stream
without them it does nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from insitu.batch import Batch, Column
from insitu.criterion import Criterion
from insitu.errors import OperatorError
from insitu.memory.reservoir import Reservoir
from insitu.memory.store import SampleStore
from insitu.strategies.base import Observation, Strategy, check_state_keys
from insitu.strategies.gradient_stack import GradientStack, Per
from insitu.strategies.half_space import gradients_of
from insitu.strategies.quadratic_programme import solve


class GEM(Strategy):
    """Turns the gradient until it agrees with that of every former task.

    Args:
        criterion: gives the reference gradients.
        device: where samples are kept.
        generator: draws which are kept and which are looked at; on the CPU.

    Raises:
        OperatorError: the capacity is less than one sample a task.
    """

    name = "gem"
    figures: ClassVar[Mapping[str, str]] = {
        "memory_samples": "samples: remembered now",
        "tasks": "tasks: with samples in memory",
        "unprotected_samples": "samples: of tasks beyond most_tasks, which were not remembered",
        "constrained_steps": "steps: updates with at least one former task",
        "projected_share": "ratio: share of them whose gradient was changed",
    }

    def __init__(
        self,
        criterion: Criterion,
        device: torch.device,
        generator: torch.Generator,
        *,
        capacity_samples: Annotated[
            int,
            Field(
                ge=1,
                description="samples to keep of all tasks together",
                json_schema_extra={"unit": "samples"},
            ),
        ] = 1000,
        most_tasks: Annotated[
            int,
            Field(
                ge=1,
                le=50,
                description="tasks among which the capacity is divided; those that come later "
                "are neither remembered nor protected",
                json_schema_extra={"unit": "tasks"},
            ),
        ] = 10,
        reference_samples: Annotated[
            int,
            Field(
                ge=1,
                description="samples of each former task that its reference gradient is taken over",
                json_schema_extra={"unit": "samples"},
            ),
        ] = 64,
        margin: Annotated[
            float,
            Field(
                ge=0.0,
                description="least weight of every reference gradient in a step that is projected "
                "(gamma in the paper); more favours former tasks",
                json_schema_extra={"unit": "ratio"},
            ),
        ] = 0.5,
        per: Annotated[
            Per, Field(description="one programme for all parameters, or one for each tensor")
        ] = "network",
    ) -> None:
        if capacity_samples < most_tasks:
            raise OperatorError(
                f"strategy 'gem': capacity_samples {capacity_samples} is less than one sample for "
                f"each of {most_tasks} tasks",
                allowed=f"capacity_samples of {most_tasks} or more",
                consequence="a task without samples could not be protected",
                remedy="raise capacity_samples or lower most_tasks",
            )
        self._criterion = criterion
        self._device = device
        self._generator = generator
        self._samples_per_task = capacity_samples // most_tasks
        self._most_tasks = most_tasks
        self._reference_samples = reference_samples
        self._margin = margin
        self._stack = GradientStack(criterion.parameters, per)
        self._memories: dict[int, Reservoir] = {}
        self._fresh_tasks: list[int] = []
        self._unprotected_samples = 0
        self._constrained_steps = 0
        # on the device, so that counting waits for nothing
        self._projected_steps = torch.zeros(
            (), dtype=torch.int64, device=criterion.parameters[0].device
        )

    def augment(self, batch: Batch) -> Batch:
        self._fresh_tasks = _tasks(batch.fresh())
        return batch

    def adjust_gradients(self) -> None:
        references = self._references()
        if not references:
            return
        gradients = gradients_of(self._criterion.parameters)
        self._stack.reserve(1 + len(references))
        self._stack.write(0, gradients)
        for row, batch in enumerate(references, start=1):
            self._stack.write(row, self._criterion.gradient(batch))
        weights = multipliers(self._stack.gram(), self._margin)
        self._constrained_steps += 1
        projected = (weights != 0).any()
        self._projected_steps += projected
        if projected.is_cpu and not projected:  # looking costs nothing there
            return
        with torch.no_grad():
            own = torch.zeros_like(weights[:, :1])
            torch._foreach_add_(gradients, self._stack.sums(torch.cat((own, weights), 1)))

    def _references(self) -> list[Batch]:
        """A draw of samples of every task that is not in the fresh rows."""
        former = (m for task, m in self._memories.items() if task not in self._fresh_tasks)
        drawn = ((m, m.draw(min(self._reference_samples, len(m)))) for m in former)
        return [memory.read(slots) for memory, slots in drawn if len(slots)]

    def observe(self, observation: Observation) -> None:
        if not observation.last:
            return
        fresh = observation.batch.fresh()
        losses = observation.losses[: fresh.rows]
        tasks = _tasks(fresh)
        if len(tasks) == 1:
            self._remember(tasks[0], fresh, losses)
            return
        column = fresh.column(Column.TASK)
        for task in tasks:
            rows = torch.nonzero(column == task).squeeze(1)
            self._remember(task, fresh.select(rows, 0), losses[rows.to(losses.device)])

    def _remember(self, task: int, rows: Batch, losses: Tensor) -> None:
        if task not in self._memories:
            if len(self._memories) == self._most_tasks:
                self._unprotected_samples += rows.rows
                return
            self._memories[task] = self._reservoir()
        self._memories[task].add(rows, losses)

    def _reservoir(self) -> Reservoir:
        memory = Reservoir(self._samples_per_task, self._device, self._generator)
        labels = self._criterion.objective.labels
        memory.keep_in(SampleStore(self._samples_per_task, self._device, labels=labels))
        return memory

    @property
    def memories(self) -> list[Reservoir]:
        """Those of all tasks so far; any thread may ask."""
        return list(self._memories.values())

    def metrics(self) -> Mapping[str, Tensor | float]:
        return {
            "memory_samples": float(sum(len(memory) for memory in self._memories.values())),
            "tasks": float(len(self._memories)),
            "unprotected_samples": float(self._unprotected_samples),
            "constrained_steps": float(self._constrained_steps),
            "projected_share": self._projected_steps / max(self._constrained_steps, 1),
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "memories": [
                {"task": task, "memory": memory.state_dict()}
                for task, memory in self._memories.items()
            ],
            "generator": self._generator.get_state(),
            "unprotected_samples": self._unprotected_samples,
            "constrained_steps": self._constrained_steps,
            "projected_steps": self._projected_steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        check_state_keys(self.name, state, self.state_dict())
        if len(state["memories"]) > self._most_tasks:
            raise OperatorError(
                f"the state of strategy {self.name!r} remembers {len(state['memories'])} tasks",
                allowed=f"at most most_tasks, {self._most_tasks}",
                remedy="resume with the options that the checkpoint was written with",
            )
        self._memories = {}
        for saved in state["memories"]:
            memory = self._memories[int(saved["task"])] = self._reservoir()
            memory.load_state_dict(saved["memory"])
        self._generator.set_state(state["generator"].cpu())
        self._unprotected_samples = int(state["unprotected_samples"])
        self._constrained_steps = int(state["constrained_steps"])
        self._projected_steps.copy_(state["projected_steps"])


@torch.no_grad()
def multipliers(gram: Tensor, margin: float) -> Tensor:
    """(problems, k) how much of every reference to add; zeros where no constraint is violated.

    Args:
        gram: (problems, 1 + k, 1 + k) float64, the gradient of the step first.
        margin: the least of each where one is violated; substituting v = margin + u turns
            v >= margin into u >= 0.
    """
    of_references, slopes = gram[:, 1:, 1:], gram[:, 1:, 0]
    found = margin + solve(of_references, slopes + margin * of_references.sum(-1))
    agrees = (slopes >= 0).all(-1, keepdim=True)
    found = torch.where(agrees, 0.0, found)
    # what is not finite goes into every tensor, so that the trainer's guard sees it
    return torch.where(found.isfinite().all(), found, torch.nan)


def _tasks(batch: Batch) -> list[int]:
    tasks = batch.column(Column.TASK).numpy()
    if (tasks == tasks[:1]).all():
        return tasks[:1].tolist()  # type: ignore[no-any-return]
    return np.unique(tasks).tolist()  # type: ignore[no-any-return]


COMPONENT = GEM
