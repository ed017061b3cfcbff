"""What all methods share that train remembered samples beside the fresh ones.

A method draws rows, puts them behind the batch and knows afterwards which rows are its own: other
strategies may put theirs before or behind them. Each own row's loss gets a weight; the mean over
all rows, weighted, is what is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from insitu.batch import Batch
from insitu.errors import OperatorError
from insitu.memory.base import Memory
from insitu.sampling import Indices
from insitu.strategies.base import Observation, Strategy, check_state_keys
from insitu.strategies.replay_augmentation import Augmentation

SamplesPerStep = Annotated[
    int,
    Field(
        ge=1,
        description="remembered samples that are trained with every batch",
        json_schema_extra={"unit": "samples"},
    ),
]
WarmUpSamples = Annotated[
    int,
    Field(
        ge=1,
        description="replay starts when the memory holds this many",
        json_schema_extra={"unit": "samples"},
    ),
]
ReplayWeight = Annotated[
    float,
    Field(
        ge=0.0,
        description="factor of the replayed rows' losses",
        json_schema_extra={"unit": "ratio"},
    ),
]
MeanOver = Annotated[
    Literal["all", "parts"],
    Field(
        description="all: one mean over fresh and replayed rows; parts: the mean over the replayed "
        "rows is added to that over the others, however many they are"
    ),
]
Augment = Annotated[
    Augmentation | None,
    Field(description="how remembered samples are changed before they are trained again"),
]


class Rehearsal(Strategy):
    """Draws remembered rows, puts them behind the batch, and remembers the fresh ones.

    Args:
        memory: where samples are kept; this strategy is its only writer.
        samples_per_step: rows of every draw.
        warm_up_samples: nothing is drawn before the memory holds this many.
        augment: how drawn rows are changed, by the memory's generator; or None.

    Raises:
        OperatorError: the memory can never hold `warm_up_samples`.
    """

    figures: ClassVar[Mapping[str, str]] = {
        "memory_samples": "samples that are remembered now",
        "times_replayed_mean": "how often a remembered sample was drawn, mean over the memory",
    }

    def __init__(
        self,
        memory: Memory,
        *,
        samples_per_step: int,
        warm_up_samples: int,
        augment: Augmentation | None,
    ) -> None:
        if warm_up_samples > memory.capacity_samples:
            raise OperatorError(
                f"strategy {self.name!r}: warm_up_samples {warm_up_samples} is more than its "
                "memory can hold",
                allowed=f"at most capacity_samples, {memory.capacity_samples}",
                consequence="it would never replay",
                remedy="lower warm_up_samples or raise memory.capacity_samples",
            )
        self.memory = memory
        self.samples_per_step = samples_per_step
        self.warm_up_samples = warm_up_samples
        self.augmentation = augment
        #: our own rows of the batch that is trained now
        self.own = slice(0, 0)
        self._weights: tuple[tuple[int, int, int], Tensor] | None = None

    def augment(self, batch: Batch) -> Batch:
        self.own = slice(batch.rows, batch.rows)
        if len(self.memory) < self.warm_up_samples:
            return batch
        slots = self.chosen(batch)
        if len(slots) == 0:
            return batch
        remembered = self.memory.give_back(slots)
        self.own = slice(batch.rows, batch.rows + remembered.rows)
        return batch.joined(self.prepared(remembered))

    def chosen(self, batch: Batch) -> Indices:
        """The slots of the memory to train beside `batch`."""
        return self.draw(self.samples_per_step)

    def draw(self, samples: int) -> Indices:
        """Slots by the memory's policy: all of them, none twice, while it holds too few."""
        return self.memory.draw(min(samples, len(self.memory)))

    def prepared(self, remembered: Batch) -> Batch:
        """What is trained of remembered rows."""
        if self.augmentation is None:
            return remembered
        return self.augmentation.applied(remembered, self.memory.generator)

    def observe(self, observation: Observation) -> None:
        if self.has_own(len(observation.losses)):
            self.memory.update_losses(self.memory.last_sampled, observation.losses[self.own])
        if not observation.last:
            return
        fresh = observation.batch.fresh()
        self.memory.add(self.remembered(fresh, observation), observation.losses[: fresh.rows])

    def remembered(self, fresh: Batch, observation: Observation) -> Batch:
        """What to keep of the fresh rows: themselves, or with further fields."""
        return fresh

    def has_own(self, rows: int) -> bool:
        """Whether there are own rows among the first `rows`."""
        return self.own.start < self.own.stop <= rows

    def weighted(self, losses: Tensor, weight: float | Tensor, mean_over: str) -> Tensor:
        """The losses with the own rows weighted, see `row_weights`."""
        rows = len(losses)
        key = (rows, self.own.start, self.own.stop)
        if isinstance(weight, Tensor):
            return losses * row_weights(rows, self.own, weight, mean_over, losses.device)
        if self._weights is None or self._weights[0] != key:
            weights = row_weights(rows, self.own, weight, mean_over, losses.device)
            self._weights = key, weights
        return losses * self._weights[1]

    def metrics(self) -> Mapping[str, Tensor | float]:
        replayed = self.memory.times_replayed.to(torch.float64)
        return {
            "memory_samples": float(len(self.memory)),
            "times_replayed_mean": replayed.mean() if len(replayed) else 0.0,
        }

    def state_dict(self) -> dict[str, Any]:
        return {"memory": self.memory.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        check_state_keys(self.name, state, {"memory": None})
        self.memory.load_state_dict(state["memory"])


def row_weights(
    rows: int, own: slice, weight: float | Tensor, mean_over: str, device: torch.device
) -> Tensor:
    """(rows,) factors such that the mean of the weighted losses is

        all:    (sum of the others + weight * sum of our own) / rows
        parts:  mean of the others + weight * mean of our own

    Example:
        >>> row_weights(4, slice(3, 4), 0.5, "parts", torch.device("cpu")).tolist()
        [1.3333333730697632, 1.3333333730697632, 1.3333333730697632, 2.0]
    """
    count = own.stop - own.start
    each, others = 1.0, 1.0
    if mean_over == "parts" and count:
        each, others = rows / count, rows / (rows - count)
    weights = torch.full((rows,), others, device=device)
    weights[own] = weight * each
    return weights
