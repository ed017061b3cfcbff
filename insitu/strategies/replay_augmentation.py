"""Changed copies of remembered samples: shifted, rolled, mirrored, noisy.

A sample that is trained many times is seen a little differently each time. Works on fields of any
number of axes: with three or more the first one is channels, which are never mixed. All fields
that are named get the same shift and mirror image, so that an input and its target stay together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from insitu.batch import Batch
from insitu.errors import OperatorError
from insitu.schema import Schema


class Augmentation(BaseModel):
    """What is done to replayed rows; every row draws for itself.

    Example:
        >>> augmentation = Augmentation(roll_cells=1)
        >>> batch = Batch.of({"x": torch.arange(4.0).reshape(1, 4)})
        >>> changed = augmentation.applied(batch, torch.Generator().manual_seed(0))
        >>> sorted(changed.fields["x"][0].tolist())
        [0.0, 1.0, 2.0, 3.0]
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    fields: Annotated[
        tuple[str, ...],
        Field(min_length=1, description="fields that are changed, all in the same way"),
    ] = ("x",)
    shape: Annotated[
        tuple[int, ...] | None,
        Field(
            description="shape of a sample as channels and axes, where the field is stored flat; "
            "left out: that of the field"
        ),
    ] = None
    shift_pixels: Annotated[
        int,
        Field(
            ge=0,
            description="shift along every axis by up to this, either way; zeros come in",
            json_schema_extra={"unit": "pixels"},
        ),
    ] = 0
    roll_cells: Annotated[
        int,
        Field(
            ge=0,
            description="as shift_pixels, but what leaves on one side comes in on the other, "
            "for periodic fields",
            json_schema_extra={"unit": "cells"},
        ),
    ] = 0
    flip: Annotated[bool, Field(description="mirror every second row along the last axis")] = False
    noise: Annotated[
        float,
        Field(
            ge=0.0,
            description="standard deviation of Gaussian noise, for fields of real numbers",
            json_schema_extra={"unit": "units of the field"},
        ),
    ] = 0.0

    def check_stream(self, schema: Schema) -> None:
        """Refuse a stream whose samples cannot be changed so.

        Raises:
            OperatorError: as `applied`, which would tell only when something is first replayed.
        """
        if missing := [name for name in self.fields if name not in schema]:
            raise _unknown(missing[0], [field.name for field in schema.fields])
        first = self._grid_shape(self.fields[0], schema[self.fields[0]].shape)
        for name in self.fields:
            grid = self._grid_shape(name, schema[name].shape)
            if (self.shift_pixels or self.roll_cells or self.flip) and grid[1:] != first[1:]:
                raise _misfit(name, grid[1:], f"{list(first[1:])}")
            if self.noise and not schema[name].dtype.startswith(("float", "bfloat")):
                raise self._whole_numbers(name, schema[name].dtype)

    def applied(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The rows, changed, as new tensors; what no option asks for is shared.

        Args:
            batch: raw rows.
            generator: of all draws; on the CPU, so that every device gets the same ones.

        Raises:
            OperatorError: a field is not in the stream, has another size than `shape`, or is to
                get noise and holds whole numbers.
        """
        fields = dict(batch.fields)
        first = self._as_grid(fields, self.fields[0])
        index, inside = self._index(first.shape[2:], batch.rows, generator, first.device)
        for name in self.fields:
            grid = self._as_grid(fields, name)
            if index is not None:
                if grid.shape[2:] != first.shape[2:]:
                    raise _misfit(name, grid.shape[2:], f"{list(first.shape[2:])}")
                grid = _gathered(grid, index, inside)
            if self.noise:
                grid = self._noisy(name, grid, generator)
            fields[name] = grid.reshape(batch.fields[name].shape)
        return batch.with_fields(fields)

    def _as_grid(self, fields: dict[str, Tensor], name: str) -> Tensor:
        """(rows, channels, *axes)"""
        if name not in fields:
            raise _unknown(name, fields)
        tensor = fields[name]
        return tensor.reshape(len(tensor), *self._grid_shape(name, tuple(tensor.shape[1:])))

    def _grid_shape(self, name: str, found: tuple[int, ...]) -> tuple[int, ...]:
        """(channels, *axes) of a sample of the field."""
        shape = found if self.shape is None else self.shape
        if math.prod(shape) != math.prod(found):
            raise _misfit(name, found, f"{list(shape)} (augment.shape)")
        return shape if len(shape) > 2 else (1, *shape)

    def _whole_numbers(self, name: str, dtype: str) -> OperatorError:
        return OperatorError(
            f"augment.noise is {self.noise} and field {name!r} holds {dtype}",
            allowed="fields of real numbers",
            remedy="set augment.noise to 0",
        )

    def _index(
        self, axes: Sequence[int], rows: int, generator: torch.Generator, device: torch.device
    ) -> tuple[Tensor | None, Tensor | None]:
        """(rows, cells) which cell each cell is taken from, and whether that one exists."""
        if not (self.shift_pixels or self.roll_cells or self.flip):
            return None, None
        index, inside = torch.zeros(rows, 1, dtype=torch.int64), torch.ones(rows, 1).bool()
        for axis, size in enumerate(axes):
            place = torch.arange(size).expand(rows, size)
            if self.flip and axis == len(axes) - 1:
                mirrored = torch.randint(2, (rows, 1), generator=generator).bool()
                place = torch.where(mirrored, size - 1 - place, place)
            if self.roll_cells:
                place = (place + _offsets(self.roll_cells, rows, generator)) % size
            if self.shift_pixels:
                place = place + _offsets(self.shift_pixels, rows, generator)
            exists = (place >= 0) & (place < size)
            index = (index[:, :, None] * size + place.clamp(0, size - 1)[:, None, :]).flatten(1)
            inside = (inside[:, :, None] & exists[:, None, :]).flatten(1)
        return _to(index, device), _to(inside, device) if self.shift_pixels else None

    def _noisy(self, name: str, grid: Tensor, generator: torch.Generator) -> Tensor:
        if not grid.is_floating_point():
            raise self._whole_numbers(name, str(grid.dtype))
        drawn = torch.randn(grid.shape, generator=generator)
        return grid + _to(drawn, grid.device).to(grid.dtype) * self.noise


def _unknown(name: str, known: Iterable[str]) -> OperatorError:
    return OperatorError(
        f"augment.fields names {name!r}, which the stream does not have",
        allowed=", ".join(known),
    )


def _misfit(name: str, found: Sequence[int], allowed: str) -> OperatorError:
    return OperatorError(
        f"augment cannot change field {name!r}: a sample has shape {list(found)}",
        allowed=allowed,
        remedy="set augment.fields and augment.shape to what the stream holds",
    )


def _offsets(most: int, rows: int, generator: torch.Generator) -> Tensor:
    return torch.randint(-most, most + 1, (rows, 1), generator=generator)


def _gathered(grid: Tensor, index: Tensor, inside: Tensor | None) -> Tensor:
    flat = grid.flatten(2)
    moved = flat.gather(2, index[:, None, :].expand(flat.shape))
    if inside is not None:
        moved = moved.masked_fill_(~inside[:, None, :], 0)
    return moved.reshape(grid.shape)


def _to(tensor: Tensor, device: torch.device) -> Tensor:
    if device.type != "cuda":
        return tensor.to(device)
    # from pinned memory the copy does not wait for what the device still has to do
    return tensor.pin_memory().to(device, non_blocking=True)
