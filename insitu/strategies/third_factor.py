"""The third factor m(t): one number a step that says how much is to be learned from it.

Hebbian learning has two factors, what comes in and what answers; a neuromodulator is the third
(Fremaux and Gerstner, "Neuromodulated spike-timing-dependent plasticity, and theory of three-factor
learning rules", 2016). Here m multiplies the gain of every kernel, between `least` and `most`:

    surprise   mean loss of the fresh rows / its running mean
    novelty    mean distance of a fresh row from the nearest remembered row of the batch / its
               running mean; 1 where no rows were replayed
    replayed   (fresh rows + replayed_factor * replayed rows) / rows
    reward     mean of a field of the stream over the fresh rows
    package.module:function   your own, function(batch, losses) -> 0-dim tensor or number

Running means are exponential, mean <- decay mean + (1 - decay) value, and begin at the first
value; a step that is skipped moves none. What is not finite counts as 1.

Deviations: the four sources and their bounds are ours.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from insitu.batch import Batch
from insitu.errors import OperatorError
from insitu.schema import Schema

SOURCES = ("surprise", "novelty", "replayed", "reward")


class ThirdFactorOptions(BaseModel):
    """Where m(t) comes from, and how far it may go."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Annotated[
        str,
        Field(
            description="surprise, novelty, replayed, reward, or a function of yours as "
            "package.module:function"
        ),
    ]
    least: Annotated[
        float, Field(ge=0.0, description="lower bound", json_schema_extra={"unit": "ratio"})
    ] = 0.0
    most: Annotated[
        float,
        Field(
            gt=0.0,
            allow_inf_nan=False,
            description="upper bound",
            json_schema_extra={"unit": "ratio"},
        ),
    ] = 3.0
    decay: Annotated[
        float,
        Field(
            ge=0.0,
            lt=1.0,
            description="share of a running mean that is kept in a step",
            json_schema_extra={"unit": "ratio"},
        ),
    ] = 0.99
    replayed_factor: Annotated[
        float,
        Field(
            ge=0.0,
            description="what a replayed row counts beside a fresh one, for `replayed`",
            json_schema_extra={"unit": "ratio"},
        ),
    ] = 0.0
    reward_field: Annotated[
        str, Field(description="field of the stream with one number a sample, for `reward`")
    ] = "reward"

    @model_validator(mode="after")
    def _check(self) -> ThirdFactorOptions:
        if self.source not in SOURCES and ":" not in self.source:
            raise ValueError(
                f"source is {self.source!r}; allowed: {', '.join(SOURCES)} or "
                "package.module:function"
            )
        if self.least > self.most:
            raise ValueError(f"least is {self.least}, above most, {self.most}")
        return self

    def check_stream(self, schema: Schema) -> None:
        """Refuse a stream without the reward that is asked for."""
        if self.source != "reward":
            return
        fields = {field.name: field for field in schema.fields}
        if self.reward_field not in fields or fields[self.reward_field].shape != ():
            raise OperatorError(
                f"reward_field is {self.reward_field!r}, no field with one number a sample",
                allowed=", ".join(n for n, f in fields.items() if f.shape == ()) or "none is there",
                remedy="let producers push the reward beside each sample",
            )


class ThirdFactor:
    """m(t) of every step, on the device.

    Args:
        options: the source and its bounds.
        device: of the losses.

    Example:
        >>> factor = ThirdFactor(ThirdFactorOptions(source="surprise"), torch.device("cpu"))
        >>> batch = Batch.of({"x": torch.zeros(2, 1)})
        >>> factor.of(batch, torch.full((2,), 1.0)).item()
        1.0
        >>> factor.count()
        >>> factor.of(batch, torch.full((2,), 2.0)).item()
        2.0
    """

    def __init__(self, options: ThirdFactorOptions, device: torch.device) -> None:
        self._options = options
        self._running = torch.full((), torch.nan, device=device)
        #: what the running mean becomes once the step is made
        self._next = self._running
        own: Mapping[str, Callable[[Batch, Tensor], Any]] = {
            "surprise": self._surprise,
            "novelty": self._novelty,
            "replayed": self._replayed,
            "reward": self._reward,
        }
        self._source = own.get(options.source) or _imported(options.source)
        #: the newest m
        self.value = torch.ones((), device=device)

    @torch.no_grad()
    def of(self, batch: Batch, losses: Tensor) -> Tensor:
        """m of this step.

        Args:
            batch: normalised, fresh rows first.
            losses: (rows,) before the update.
        """
        self._next = self._running
        value = torch.as_tensor(self._source(batch, losses.detach()), device=self.value.device)
        value = torch.where(torch.isfinite(value), value, 1.0).to(self.value.dtype)
        self.value = value.clamp(self._options.least, self._options.most)
        return self.value

    def count(self) -> None:
        """The step was made: the running mean moves."""
        self._running = self._next

    def _surprise(self, batch: Batch, losses: Tensor) -> Tensor:
        return self._by_running_mean(losses[: batch.fresh_rows].mean())

    def _novelty(self, batch: Batch, losses: Tensor) -> Tensor | float:
        if batch.replayed_rows == 0:
            return 1.0
        rows = torch.cat([t.flatten(1).to(losses.dtype) for t in _real(batch)], dim=1)
        distances = torch.cdist(rows[: batch.fresh_rows], rows[batch.fresh_rows :])
        return self._by_running_mean(distances.amin(dim=1).mean())

    def _replayed(self, batch: Batch, losses: Tensor) -> float:
        counted = batch.fresh_rows + self._options.replayed_factor * batch.replayed_rows
        return counted / batch.rows

    def _reward(self, batch: Batch, losses: Tensor) -> Tensor:
        reward = batch.fields[self._options.reward_field][: batch.fresh_rows]
        return reward.to(losses.dtype).mean()

    def _by_running_mean(self, value: Tensor) -> Tensor:
        """value / its running mean before it, which `count` then moves; 1 the first time."""
        known = torch.isfinite(value)
        before = torch.where(torch.isnan(self._running), value, self._running)
        decay = self._options.decay
        after = decay * before + (1.0 - decay) * value
        self._next = torch.where(known, after, self._running).to(self._running.dtype)
        return value / before

    def state_dict(self) -> dict[str, Any]:
        return {"running": self._running, "value": self.value}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._running = self._next = state["running"].to(self._running, copy=True)
        self.value = state["value"].to(self.value, copy=True)


def _real(batch: Batch) -> list[Tensor]:
    """The fields of real numbers that have more than one number a sample."""
    return [t for t in batch.fields.values() if t.is_floating_point() and t.dim() > 1]


def _imported(name: str) -> Callable[[Batch, Tensor], Any]:
    module, _, function = name.partition(":")
    try:
        found: Callable[[Batch, Tensor], Any] = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise OperatorError(
            f"third_factor.source is {name!r}, which cannot be imported: {error}",
            allowed=f"{', '.join(SOURCES)}, or package.module:function that Python finds",
            consequence="the service does not start",
        ) from error
    return found
