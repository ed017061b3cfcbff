"""Normalisation of a batch by running statistics of the stream.

A stream has no data set to take means from beforehand, so the statistics run along: every fresh
row is counted once, before it is trained, and all rows (fresh, remembered, held out) are mapped
with the statistics of that moment. Memories keep raw rows, so old samples follow the statistics.
Statistics without spread beyond rounding (a dead pixel, a constant field) only have their mean
removed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from insitu.batch import Batch
from insitu.normalisation.checks import check_names, check_state
from insitu.normalisation.statistics import Axes, RunningStatistics, default_axes
from insitu.normalisation.unit_range import to_unit_range
from insitu.schema import Schema


class Normaliser:
    """Maps real-valued fields of a batch to mean 0 and standard deviation 1.

    Args:
        schema: of the stream.
        statistics_of: field -> the field whose statistics it is mapped with, as an objective's
            `statistics_of` says. Fields that are not named (labels) pass untouched.

    The count of samples is an ordinary number on the host, so freezing needs no look at the
    device. It is a plain object rather than an `nn.Module`: field names may hold dots, which
    buffers may not, and its state must not mix with the model's.

    Example:
        >>> schema = Schema.of({"x": ("float32", (1,)), "y": ("int64", ())})
        >>> normaliser = Normaliser(schema, {"x": "x"})
        >>> batch = Batch.of({"x": torch.tensor([[4.0], [8.0]]), "y": torch.tensor([0, 1])})
        >>> normaliser.update(batch)
        >>> normaliser.normalise(batch).fields["x"].tolist()
        [[-1.0], [1.0]]
        >>> normaliser.denormalise("x", torch.tensor([[0.5]])).tolist()
        [[7.0]]
    """

    def __init__(
        self,
        schema: Schema,
        statistics_of: Mapping[str, str],
        *,
        axes: Annotated[
            dict[str, Axes] | None,
            Field(
                description="by field, what shares a mean: each channel (first axis), the whole "
                "field, or each element alone; left out: element for up to 1 axis, whole for 2, "
                "channel for more"
            ),
        ] = None,
        unnormalised: Annotated[
            tuple[str, ...], Field(description="fields that keep their values")
        ] = (),
        freeze_after_samples: Annotated[
            int | None,
            Field(
                ge=1,
                description="stop counting with the batch that reaches this many fresh samples; "
                "left out: never",
                json_schema_extra={"unit": "samples"},
            ),
        ] = None,
        clip_deviations: Annotated[
            float | None,
            Field(
                gt=0.0,
                description="cut normalised values off at plus and minus this; left out: never. "
                "What is cut off does not come back by denormalising",
                json_schema_extra={"unit": "standard deviations"},
            ),
        ] = None,
    ) -> None:
        axes = axes or {}
        check_names(schema, statistics_of, (*axes, *unnormalised))
        self._source = {
            name: source
            for name, source in statistics_of.items()
            if name not in unnormalised and source not in unnormalised
        }
        self._statistics = {
            source: RunningStatistics(
                schema[source].shape, axes.get(source) or default_axes(schema[source].shape)
            )
            for source in dict.fromkeys(self._source.values())
        }
        self._freeze_after_samples = freeze_after_samples
        self._clip_deviations = clip_deviations
        #: a deviation below this share of the mean is rounding noise of the dtype worked in
        self._noise = {
            name: 16 * torch.finfo(_working_dtype(schema[name].dtype)).eps
            for name in self._statistics
        }
        self.samples = 0
        self._shift_and_scale: dict[str, tuple[Tensor, Tensor]] = {}
        self._refresh()

    @property
    def frozen(self) -> bool:
        """Whether the statistics stand still for good."""
        limit = self._freeze_after_samples
        return limit is not None and self.samples >= limit

    def update(self, batch: Batch) -> None:
        """Count the fresh rows of a raw batch; remembered ones were counted in their time."""
        if self.frozen or batch.fresh_rows == 0:
            return
        fresh = batch.fresh()
        with torch.no_grad():
            for name, statistics in self._statistics.items():
                statistics.update(_real(fresh.fields[name]))
            self.samples += fresh.rows
            self._refresh()

    def reset(self) -> None:
        """Forget all that was counted."""
        self.samples = 0
        for statistics in self._statistics.values():
            statistics.reset()
        self._refresh()

    def normalise(self, batch: Batch) -> Batch:
        """The batch with new float32 tensors for the fields it maps; the others are shared."""
        fields = dict(batch.fields)
        for name, source in self._source.items():
            if name in fields:
                fields[name] = self._mapped(fields[name], source)
        return batch.with_fields(fields)

    def _mapped(self, raw: Tensor, source: str) -> Tensor:
        shift, scale = self._shift_and_scale[source]
        values = _real(raw)
        mapped = (values - shift.to(values.dtype)).to(torch.float32).div_(scale)
        if self._clip_deviations is not None:
            mapped.clamp_(-self._clip_deviations, self._clip_deviations)
        return mapped

    def denormalise(self, field: str, values: Tensor) -> Tensor:
        """Outputs (rows, *shape) in units of `field` (8- and 16-bit integers: of full scale)."""
        if field not in self._source:
            return values
        shift, scale = self._shift_and_scale[self._source[field]]
        return values * scale + shift.to(torch.float32)

    def deviation(self, field: str) -> Tensor:
        """What `field` is divided by: float32, broadcasts against (rows, *shape)."""
        return self._shift_and_scale[self._source[field]][1]

    def mean(self, field: str) -> Tensor:
        """What is subtracted from `field`: float64, broadcasts against (rows, *shape)."""
        return self._shift_and_scale[self._source[field]][0]

    def _refresh(self) -> None:
        for name, statistics in self._statistics.items():
            deviation = statistics.variance().sqrt()
            has_spread = deviation > self._noise[name] * statistics.mean.abs()
            scale = torch.where(has_spread, deviation, torch.ones_like(deviation))
            self._shift_and_scale[name] = (
                statistics.mean.reshape(statistics.broadcast),
                scale.reshape(statistics.broadcast).to(torch.float32),
            )

    def to(self, device: torch.device | str) -> Normaliser:
        for statistics in self._statistics.values():
            statistics.to(device)
        self._refresh()
        return self

    def state_dict(self) -> dict[str, Any]:
        fields = {name: statistics.state_dict() for name, statistics in self._statistics.items()}
        return {"samples": self.samples, "fields": fields}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        check_state(state, self.state_dict())
        self.samples = int(state["samples"])
        for name, statistics in self._statistics.items():
            statistics.load_state_dict(state["fields"][name])
        self._refresh()


def _working_dtype(dtype: str) -> torch.dtype:
    return torch.float64 if dtype == "float64" else torch.float32


def _real(tensor: Tensor) -> Tensor:
    """float64 stays, all else becomes float32."""
    real = to_unit_range(tensor)
    return real if real.dtype == torch.float64 else real.to(torch.float32)


COMPONENT = Normaliser
