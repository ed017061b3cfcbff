"""What standardises a task's rows, kept when the task ends.

Chang et al., "Domain-specific batch normalization for unsupervised domain adaptation" (CVPR 2019),
with tasks as domains, and no weights.

In training rows of a task that has ended (replayed, or come back) are standardised by its
statistics, all others by those of the batch, taken over these others. In evaluation rows of a task
that has ended are standardised by its statistics, and all others, or all rows where nobody says
which task they are of, by the running statistics that tasks share. So where the weights before a
standardisation stay, the features of a task that ended stay to the last bit.

A task's own statistics are means over its batches, with nothing of the tasks before in them:

    mean <- mean + max(momentum, 1 / batches) (mean of the batch - mean)

Deviations: rows of several tasks in progress share the statistics of the batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from insitu.layers.moments import Moments


class TaskStatistics(nn.Module):
    """Mean and variance of each channel for every task that has ended.

    Part of a `BatchStandardisation`, which asks it what stands for each row.

    Args:
        channels: of the rows.
        momentum: least share of a batch in the statistics of the task in progress.
    """

    tasks: Tensor
    means: Tensor
    variances: Tensor
    mean: Tensor
    variance: Tensor
    batches: Tensor

    def __init__(self, channels: int, momentum: float) -> None:
        super().__init__()
        self._momentum = momentum
        #: (rows,) of the next pass: the place of each row's task, -1 where it has none; None: none
        self.places: Tensor | None = None
        self.register_buffer("tasks", torch.empty(0, dtype=torch.int64))
        self.register_buffer("means", torch.empty(0, channels))
        self.register_buffer("variances", torch.empty(0, channels))
        # of the tasks in progress
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))
        self.register_buffer("batches", torch.zeros(()))
        self._found: Moments | None = None
        # as `tasks`, on the host
        self._place: dict[int, int] = {}

    def places_of(self, tasks: Sequence[int]) -> Tensor:
        """(rows,) what `places` is to be for rows of these tasks."""
        places = [self._place.get(task, -1) for task in tasks]
        return torch.tensor(places, dtype=torch.int64).to(self.means.device, non_blocking=True)

    def without(self, rows: Tensor) -> Tensor:
        """(rows,) bool: rows whose task has no statistics of its own."""
        return self._places_for(rows) < 0

    def of_rows(self, rows: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """(rows, channels) mean and variance of each row, the given ones where there are no own."""
        places = self._places_for(rows)
        own = (places >= 0).unsqueeze(1)
        if not self._place:
            return mean.expand(len(rows), -1), variance.expand(len(rows), -1)
        at = places.clamp_min(0)
        return (
            torch.where(own, self.means[at], mean),
            torch.where(own, self.variances[at], variance),
        )

    def _places_for(self, rows: Tensor) -> Tensor:
        """Every row may come in several views, one after the other; what is left has no place."""
        places = torch.full((len(rows),), -1, device=rows.device)
        if self.places is not None and len(self.places):
            told = self.places.repeat(len(rows) // len(self.places))
            places[: len(told)] = told
        return places

    def record(self, found: Moments) -> None:
        """What a batch of tasks in progress has shown; counts with `apply_update`."""
        self._found = found

    def apply_update(self) -> None:
        if self._found is not None:
            known = self._found.known
            self.batches += (self._found.values > 1.0).to(self.batches)
            share = (1.0 / self.batches.clamp_min(1.0)).clamp_min(self._momentum)
            for own, new in ((self.mean, self._found.mean), (self.variance, self._found.unbiased)):
                own.copy_(torch.where(known, own.lerp(new, share.to(own)), own))
        self._found = None

    def discard(self) -> None:
        self._found = None

    def keep(self, task: int) -> None:
        """The task has ended: what is known of its rows stands for them from now on.

        Nothing changes where nothing is known, or where it ended before.
        """
        if task in self._place or not self.batches:
            return
        self._place[task] = len(self._place)
        self.tasks = torch.cat((self.tasks, self.tasks.new_tensor([task])))
        self.means = torch.cat((self.means, self.mean.unsqueeze(0)))
        self.variances = torch.cat((self.variances, self.variance.unsqueeze(0)))

    def begin(self) -> None:
        """No task is in progress: the next batch counts alone."""
        self.batches.zero_()

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *others: Any
    ) -> None:
        """Take over as many tasks as were kept."""
        for name in ("tasks", "means", "variances"):
            saved, own = state_dict.get(prefix + name), getattr(self, name)
            if isinstance(saved, Tensor) and saved.shape[1:] == own.shape[1:]:
                setattr(self, name, own.new_zeros(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *others)
        self._place = {task: place for place, task in enumerate(self.tasks.tolist())}
        self.discard()


class TasksInProgress:
    """Which tasks have rows since they last ended, and when their statistics are kept.

    Args:
        parts: all statistics of a network.
    """

    def __init__(self, parts: Iterable[TaskStatistics]) -> None:
        self._parts = tuple(parts)
        self.tasks: set[int] = set()

    def end_task(self, task: int) -> None:
        """Keep its statistics, if it had rows."""
        if task not in self.tasks:
            return
        self.tasks.remove(task)
        for part in self._parts:
            part.keep(task)
            if not self.tasks:
                part.begin()


@contextmanager
def rows_of_tasks(parts: Sequence[TaskStatistics], tasks: Sequence[int]) -> Iterator[None]:
    """Inside, forward passes are over rows of these tasks, in this order."""
    places = parts[0].places_of(tasks)
    for part in parts:
        part.places = places
    try:
        yield
    finally:
        for part in parts:
            part.places = None
