"""Kernels at the steps of which there are checkpoints; nothing is built, run or unpickled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from insitu.analysis.kernels import KernelTable, kernel_tables
from insitu.checkpoint import (
    CheckpointDamaged,
    NoGoodCheckpoint,
    list_checkpoints,
    newest_good,
    read_checkpoint,
)
from insitu.checkpoint.directory import MANIFEST_NAME
from insitu.errors import OperatorError


@dataclass(frozen=True)
class Moment:
    """The Hebbian layers of one checkpoint, by name.

    Args:
        path, step: of the checkpoint.
        tables: what each kernel does.
        weights: (kernels, *fan_in) of each layer.
    """

    path: Path
    step: int
    tables: Mapping[str, KernelTable]
    weights: Mapping[str, Tensor]

    def only(self, layer: str | None) -> Moment:
        """The same of one layer alone; None for all.

        Raises:
            OperatorError: there is no such layer.
        """
        if layer is None:
            return self
        if layer not in self.tables:
            raise OperatorError(
                f"layer {layer!r} is no Hebbian layer of {self.path}",
                allowed=", ".join(self.tables),
            )
        tables, weights = {layer: self.tables[layer]}, {layer: self.weights[layer]}
        return Moment(self.path, self.step, tables, weights)


def read_moment(path: Path) -> Moment:
    """Of one checkpoint, or of the newest good one in a directory of them.

    Raises:
        CheckpointDamaged: the checkpoint is.
        NoGoodCheckpoint: none is there, or all are damaged.
        OperatorError: its model has no Hebbian layer.
    """
    if (path / MANIFEST_NAME).is_file():
        state, manifest = read_checkpoint(path)
        return _moment(path, manifest.step, state)
    found = newest_good(path)
    if found is None:
        raise NoGoodCheckpoint(
            f"{path} is no checkpoint, and there is none in it",
            allowed="the directory of one checkpoint, or `checkpoint.directory` of a service",
        )
    return _moment(found.path, found.manifest.step, found.state)


def read_history(last: Moment) -> tuple[list[Moment], list[Path]]:
    """The moments that led to this one, itself the last, and the checkpoints that are damaged.

    They are the checkpoints beside it, up to its step, as many as retention has left; those of
    another network are passed over.
    """
    moments, damaged = [], []
    shapes = {name: table.shape for name, table in last.tables.items()}
    for path in list_checkpoints(last.path.parent):
        if path.name == last.path.name:
            break
        try:
            moment = read_moment(path)
        except CheckpointDamaged:
            damaged.append(path)
            continue
        found = {name: table.shape for name, table in moment.tables.items()}
        if shapes.items() <= found.items():
            moments.append(moment)
    return [*moments, last], damaged


def shares_between(before: KernelTable | None, after: KernelTable) -> Tensor | None:
    """(kernels,) images in which each kernel was among the `top`, between two moments.

    Where a task ended in between: since it did. None where no kernel plasticity counted.
    """
    shares = after.columns.get("activation_share")
    if shares is None or before is None or before.tasks != after.tasks:
        return shares
    images = after.images - before.images
    if images <= 0 or before.images <= 0:
        return shares
    hits = shares * after.images - before.columns["activation_share"] * before.images
    return hits.clamp_min(0.0) / images


def changes_by_task(moments: Sequence[Moment], layer: str) -> dict[int, Tensor]:
    """Number of a task that ended, from 1 -> (kernels,) mean change per step in it.

    A task is known where a checkpoint was written after its end and before that of the next.
    """
    found = {}
    for moment in moments:
        table = moment.tables[layer]
        if table.last_task_moved_per_step is not None:
            found[table.tasks] = table.last_task_moved_per_step
    return found


def ordered(table: KernelTable, column: str) -> list[int]:
    """Numbers of the kernels, the largest figure first and unknown ones last; `kernel`: as is."""
    if column == "kernel" or column not in table.columns:
        return list(range(table.shape[0]))
    values = table.columns[column].double().nan_to_num(-torch.inf)
    return [int(each) for each in values.argsort(descending=True, stable=True)]


def _moment(path: Path, step: int, state: Mapping[str, Any]) -> Moment:
    trainer = state.get("trainer", state)
    if not {"model", "strategies"} <= set(trainer):
        raise OperatorError(
            f"checkpoint {path} holds {', '.join(sorted(state))}",
            allowed="the state of a service, or that of a trainer",
        )
    try:
        tables = kernel_tables(trainer["model"], trainer["strategies"])
    except OperatorError as error:
        raise OperatorError(
            f"checkpoint {path}: {error.message}",
            allowed=error.allowed,
            consequence=error.consequence,
        ) from None
    weights = {name: trainer["model"][f"{name}.weight" if name else "weight"] for name in tables}
    return Moment(path, step, tables, weights)
