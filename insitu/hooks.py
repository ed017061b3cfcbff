"""The events that hooks can watch: the one table of them.

A hook watches and never changes learning. What a hook receives is one flat dict: the fields of
its event, below, and those that every event has (`COMMON_FIELDS`). As JSON, numbers that are not
finite are the strings "NaN", "Infinity" and "-Infinity".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

#: field -> meaning, in every event
COMMON_FIELDS: Mapping[str, str] = {
    "event": "name of the event",
    "service": "name of the service",
    "time": "when it happened, seconds since 1970",
    "step": "number of the last step, from 1; 0 before the first",
}

#: kind of alert -> meaning
ALERTS: Mapping[str, str] = {
    "non_finite_loss": "the loss or a gradient was not finite; the state is rolled back, or the "
    "service stops",
    "step_skipped": "the loss or a gradient was not finite and the step made no update",
    "diverged": "too many steps in a row were skipped; the service goes back to the last good "
    "checkpoint, or stops",
    "out_of_memory": "memory ran out in a step; it was made again in smaller pieces",
    "ingest_stopped": "nothing can be accepted: the log cannot be written, or a worker is held up",
    "learner_failed": "the learner ended with an error",
    "checkpoint_failed": "a checkpoint could not be written; training goes on",
}


@dataclass(frozen=True)
class Event:
    """Something that happens in the life of a service.

    Args:
        name: in the configuration (`on: task_end`) and in the payload.
        meaning: when it comes.
        fields: field of the payload -> meaning, beside `COMMON_FIELDS`.
    """

    name: str
    meaning: str
    fields: Mapping[str, str]

    @property
    def hook_name(self) -> str:
        """What a hook for it is called: `on_task_end`."""
        return f"on_{self.name}"


_EVENTS = (
    Event(
        "start",
        "The learner begins; hooks for other events wait until these have run.",
        {"resumed_from": "name of the checkpoint it continues from; null for a new run"},
    ),
    Event(
        "step",
        "A training step is done. Use `every`: a hook that is slower than the steps misses some.",
        {
            "loss": "mean loss over all rows of the step, without penalties",
            "loss_fresh": "the same over the rows from the stream; null without any",
            "loss_replayed": "the same over the rows from memory; null without any",
            "fresh_samples": "rows trained from the stream",
            "replayed_samples": "rows trained from memory",
            "learning_rate": "in force during the step",
            "skipped": "whether the step made no update, because something was not finite",
        },
    ),
    Event(
        "task_end",
        "All samples of a task that ended are trained, its strategies have consolidated, and the "
        "probes are measured.",
        {
            "task": "name of the task",
            "samples": "how many samples it had in this visit",
            "scores": "task -> score on its held-out probes, for all tasks that have some",
            "figures": "figure over tasks -> its value: average, forgetting, transfer, ...",
            "ended_by": "who said so: producer, command or detection",
            "detectors": "names of the detectors that found the boundary; empty for the others",
        },
    ),
    Event(
        "evaluation",
        "The probes are measured between the ends of tasks: on schedule, or by command.",
        {
            "scores": "task -> score on its held-out probes, for all tasks that have some",
            "figures": "figure over tasks -> its value: average, forgetting, transfer, ...",
        },
    ),
    Event(
        "checkpoint",
        "A checkpoint is safely on the disk.",
        {
            "path": "its directory",
            "duration_seconds": "time to write it",
            "size_bytes": "size of its tensors",
        },
    ),
    Event(
        "alert",
        "Something needs a person's attention.",
        {"kind": "one of the kinds of alert", "text": "what, in words"},
    ),
    Event(
        "stop",
        "The learner has ended; comes after all other hooks have finished or timed out.",
        {"failure": "what ended it, in words; null when it was stopped as asked"},
    ),
)

#: name -> event, in the order of a service's life
EVENTS: Mapping[str, Event] = {event.name: event for event in _EVENTS}
