"""The episodic memories of the service: where they keep their samples, and what is in them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch

from insitu.config.continual import MemorySection
from insitu.errors import OperatorError
from insitu.memory.base import Memory
from insitu.memory.composition import composition
from insitu.memory.device_room import DeviceRoom
from insitu.memory.disk_room import DiskRoom
from insitu.memory.host_room import HostRoom
from insitu.memory.room import Room
from insitu.memory.store import SampleStore
from insitu.objectives.base import Objective
from insitu.trainer import Trainer
from insitu_service.recording.checkpoint_writer import CheckpointWriter
from insitu_service.status import MemoryFill

#: checkpoints that may be under way while others are being kept: one an arena
_UNDER_WAY = 2


def build_store(
    section: MemorySection,
    place: str,
    device: torch.device,
    objective: Objective,
    *,
    checkpoints_kept: int,
) -> SampleStore:
    """Where a memory keeps its samples, by the configuration.

    Args:
        place: of the memory in the configuration; names its directory.
        checkpoints_kept: how many stay on the disk.
    """
    capacity = section.capacity_samples
    room: Room
    if section.directory is not None:
        directory = section.directory / place
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OperatorError(
                f"the memory's directory {directory} cannot be made: {error.strerror}",
                consequence="the service does not start",
                remedy="set memory.directory to a place that this user may write to",
            ) from error
        room = DiskRoom(
            capacity, device, directory, quarantine_checkpoints=checkpoints_kept + _UNDER_WAY
        )
    elif section.placement == "host":
        room = HostRoom(capacity, device)
    else:
        room = DeviceRoom(capacity, device)
    return SampleStore(capacity, device, room=room, labels=objective.labels)


def memories(trainer: Trainer) -> list[Memory]:
    """Those of all strategies that have one, or one a task (`memories`)."""
    found: list[object] = []
    for part in trainer.strategies.values():
        found += getattr(part, "memories", (getattr(part, "memory", None),))
    return [memory for memory in found if isinstance(memory, Memory)]


def count_checkpoints(trainer: Trainer, writer: CheckpointWriter | None) -> None:
    """Tell memories on disk how many checkpoints were written, so that they know what is needed."""
    if writer is not None:
        for memory in memories(trainer):
            memory.count_checkpoints_by(lambda: writer.counters.written)


def memory_fill(
    trainer: Trainer, tasks: Sequence[str], producers: Sequence[str]
) -> MemoryFill | None:
    """All episodic memories together; None when there is none.

    Args:
        tasks, producers: names by index, as producers gave them.
    """
    all_of_them = memories(trainer)
    if not all_of_them:
        return None
    found = composition([memory.contents() for memory in all_of_them], time.time_ns())
    return {
        "samples": found.samples,
        "capacity_samples": sum(memory.capacity_samples for memory in all_of_them),
        "by_task": _named(found.by_task, trainer.segments.names(tasks)),
        "by_class": {str(label): count for label, count in found.by_class.items()},
        "by_producer": _named(found.by_producer, producers),
        "age_seconds": {str(quantile): age for quantile, age in found.age_seconds.items()},
        "age_samples": {str(quantile): age for quantile, age in found.age_samples.items()},
    }


def _named(counts: Mapping[int, int], names: Sequence[str]) -> dict[str, int]:
    return {
        names[index] if index < len(names) else str(index): count for index, count in counts.items()
    }
