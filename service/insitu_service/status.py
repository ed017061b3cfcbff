"""The shape of `/status`, and the few figures of it that people look at first.

The composition root makes the dict; HTTP, the live table and `insitu status` read it. Every part
may be missing while the service starts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NotRequired, TypedDict


class ServiceStatus(TypedDict):
    name: str
    version: str
    state: str  # starting | running | draining | drained | stopped
    started_at: float  # seconds since 1970
    resumed_from: str | None  # name of the checkpoint


class StreamStatus(TypedDict):
    received_samples: int
    resumed_samples: int
    trained_samples: int
    skipped_samples: int
    dropped_samples: int
    quarantined_samples: int
    duplicate_batches: int
    lost_samples: int
    received_bytes: int


class BufferFill(TypedDict):
    policy: str
    capacity_samples: int
    pending_samples: int
    backlog_samples: int
    kept_samples: int
    free_samples: int


class MemoryFill(TypedDict):
    samples: int
    capacity_samples: int
    by_task: dict[str, int]
    by_class: dict[str, int]
    by_producer: dict[str, int]
    age_seconds: dict[str, float]  # quantile ("0.0" the youngest) -> since the push
    age_samples: dict[str, float]  # the same in samples that were offered since


class TrainerStatus(TypedDict):
    step: int
    loss: float | None
    loss_fresh: float | None
    loss_replayed: float | None
    scores: dict[str, float]
    learning_rate: float
    steps_per_second: float
    samples_per_second: float
    skipped_steps: int


class TaskStatus(TypedDict):
    name: str
    visit: int
    samples: int
    state: str


class PrequentialStatus(TypedDict):
    """Loss and headline score of rows before they were trained."""

    samples: int
    loss: float | None
    score: float | None


class EvaluationStatus(TypedDict):
    metric: str
    higher_is_better: bool
    tasks: list[str]  # columns of the matrix
    ended: list[str]  # the task that ended before each row
    matrix: list[list[float | None]]  # row i: all tasks, measured when task i had ended
    row_numbers: list[int]  # of each row among all; old ones are thinned out in a long run
    figures: dict[str, float | None]  # over tasks: average, forgetting, transfer, ...
    forgetting: dict[str, float]  # by task
    probes: dict[str, int]  # by task: samples that it is measured on


class ProducerStatus(TypedDict):
    id: str
    state: str
    rows: int
    blocked_seconds: float
    dropped_rows: int


class CheckpointStatus(TypedDict):
    last: str | None
    last_success_at: float | None
    failures: int


class Status(TypedDict):
    """The whole."""

    service: ServiceStatus
    stream: NotRequired[StreamStatus]
    buffer: NotRequired[BufferFill]
    memory: NotRequired[MemoryFill | None]
    trainer: NotRequired[TrainerStatus]
    tasks: NotRequired[list[TaskStatus]]
    evaluation: NotRequired[EvaluationStatus | None]
    prequential: NotRequired[dict[str, PrequentialStatus]]  # over: mean, window, fading
    producers: NotRequired[list[ProducerStatus]]
    checkpoint: NotRequired[CheckpointStatus]


def figures(status: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(label, value) pairs in words, of the parts that are there.

    Example:
        >>> figures({"buffer": {"pending_samples": 12, "kept_samples": 0,
        ...                     "capacity_samples": 4096, "policy": "fifo"}})
        [('buffer', '12 to train, 0 kept, of 4,096 (fifo)')]
    """
    makers: dict[str, Callable[[Any], list[tuple[str, str]]]] = {
        "service": _service,
        "stream": _stream,
        "buffer": _buffer,
        "memory": _memory,
        "trainer": _trainer,
        "tasks": _tasks,
        "producers": _producers,
        "checkpoint": _checkpoint,
    }
    return [pair for key, make in makers.items() if status.get(key) for pair in make(status[key])]


def number(value: float | None) -> str:
    """A figure for people: thousands with commas, four digits of a fraction, - for none.

    Example:
        >>> number(1797), number(0.123456), number(None), number(12345.6)
        ('1,797', '0.1235', '-', '12,346')
    """
    if value is None:
        return "-"
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _service(part: Mapping[str, Any]) -> list[tuple[str, str]]:
    resumed = f", resumed from {part['resumed_from']}" if part.get("resumed_from") else ""
    return [("state", f"{part.get('state', '?')}{resumed}, version {part.get('version', '?')}")]


def _stream(part: Mapping[str, Any]) -> list[tuple[str, str]]:
    names = ("received", "trained", "dropped", "quarantined", "lost")
    words = [f"{number(part.get(f'{name}_samples', 0))} {name}" for name in names]
    return [("samples", ", ".join(words))]


def _buffer(part: Mapping[str, Any]) -> list[tuple[str, str]]:
    text = (
        f"{number(part.get('pending_samples', 0))} to train, "
        f"{number(part.get('kept_samples', 0))} kept, "
        f"of {number(part.get('capacity_samples', 0))} ({part.get('policy', '?')})"
    )
    return [("buffer", text)]


def _memory(part: Mapping[str, Any]) -> list[tuple[str, str]]:
    fill = f"{number(part.get('samples', 0))} of {number(part.get('capacity_samples', 0))}"
    tasks = ", ".join(f"{name} {number(n)}" for name, n in part.get("by_task", {}).items())
    return [("memory", f"{fill}: {tasks}" if tasks else fill)]


def _trainer(part: Mapping[str, Any]) -> list[tuple[str, str]]:
    rates = (
        f"{number(part.get('step', 0))} at {number(part.get('steps_per_second'))}/s, "
        f"{number(part.get('samples_per_second'))} samples/s, "
        f"{number(part.get('skipped_steps', 0))} skipped"
    )
    loss = (
        f"{number(part.get('loss'))} (fresh {number(part.get('loss_fresh'))}, "
        f"replayed {number(part.get('loss_replayed'))})"
    )
    scores = [(name, number(value)) for name, value in part.get("scores", {}).items()]
    return [("steps", rates), ("loss", loss), *scores]


def _tasks(part: list[Mapping[str, Any]]) -> list[tuple[str, str]]:
    newest = part[-1]
    return [("task", f"{newest['name']} ({newest.get('state', '?')}), {number(len(part))} in all")]


def _producers(part: list[Mapping[str, Any]]) -> list[tuple[str, str]]:
    shown = [
        f"{p['id']} ({p.get('state', '?')}, {number(p.get('rows', 0))} rows)" for p in part[:5]
    ]
    more = [f"and {len(part) - 5} more"] if len(part) > 5 else []
    return [("producers", ", ".join([*shown, *more]))]


def _checkpoint(part: Mapping[str, Any]) -> list[tuple[str, str]]:
    failures = part.get("failures", 0)
    failed = f", {number(failures)} failed" if failures else ""
    return [("checkpoint", f"{part.get('last') or 'none yet'}{failed}")]
