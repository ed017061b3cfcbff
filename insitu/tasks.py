"""Tasks and visits: which stay of the stream in which task is open, closed, and over.

Producers name their tasks; a task's index is the order in which its name first arrived. A
*visit* is one stay of the stream in a task: it begins when a sample arrives for a task that no
live producer is in, and closes when the last producer in it has gone on to another task or has
left. A closed visit has *ended* once each of its samples is resolved: drawn for training for
the first time, or dropped. Only then does consolidating it make sense.

Nothing here knows threads or clocks; the stream buffer calls it under its lock.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from insitu.errors import InternalError, OperatorError, ProducerError

#: the name of the task of samples that were pushed without one
DEFAULT_TASK = "default"

_STATE_KEYS = {"names", "arrived", "trained", "dropped", "next_visit", "visits", "ended"}


@dataclass(frozen=True)
class TaskVisit:
    """A visit that has ended.

    Args:
        visit: number of the visit, from 0, rising in order of arrival.
        task: index of the task; `name` is its name.
        samples: rows that arrived in this visit.
        dropped: how many of them were dropped and never drawn.
    """

    visit: int
    task: int
    name: str
    samples: int
    dropped: int = 0


@dataclass(frozen=True)
class TaskCount:
    """Samples of one task since the start: arrived = trained + dropped + unseen."""

    name: str
    arrived: int
    trained: int
    dropped: int


@dataclass
class _Visit:
    task: int
    samples: int = 0
    unseen: int = 0
    dropped: int = 0
    producers: set[str] = field(default_factory=set)


class TaskLedger:
    """The books on tasks and visits.

    Args:
        most_tasks: distinct task names that are accepted; a producer that names one more is at
            fault (a step number in a task's name makes a new task a sample).

    Example:
        >>> ledger = TaskLedger()
        >>> ledger.arrive("rank-0", "warmup", 2)
        (0, 0)
        >>> ledger.arrive("rank-0", "flow", 1)
        (1, 1)
        >>> ledger.take_ended()
        []
        >>> ledger.resolve(0, 2)
        >>> ledger.take_ended()
        [TaskVisit(visit=0, task=0, name='warmup', samples=2, dropped=0)]
    """

    def __init__(self, *, most_tasks: int = 1000) -> None:
        if most_tasks < 1:
            raise OperatorError(f"most_tasks is {most_tasks}", allowed="1 or more")
        self._most_tasks = most_tasks
        self._names: list[str] = []
        self._index: dict[str, int] = {}
        self._arrived: list[int] = []
        self._trained: list[int] = []
        self._dropped: list[int] = []
        self._next_visit = 0
        self._visits: dict[int, _Visit] = {}  # all that have not ended
        self._open: dict[int, int] = {}  # task -> its open visit
        self._current: dict[str, int] = {}  # producer -> the task that it is in
        self._ended: list[TaskVisit] = []

    def index_of(self, task: str) -> int:
        """Index of a task by its name, "" being the default task; a new name gets the next one.

        Raises:
            ProducerError: there are already `most_tasks` other names.
        """
        name = task or DEFAULT_TASK
        index = self._index.get(name)
        if index is not None:
            return index
        self.check(name)
        self._add_name(name)
        return len(self._names) - 1

    def check(self, task: str, beside: Collection[str] = ()) -> None:
        """Whether `index_of` would take this name, once it has taken those `beside` it.

        Raises:
            ProducerError: it would not.
        """
        name = task or DEFAULT_TASK
        if name in self._index:
            return
        others = {other or DEFAULT_TASK for other in beside} - self._index.keys() - {name}
        known = len(self._names) + len(others)
        if known >= self._most_tasks:
            raise ProducerError(
                f"task {name!r} would be number {known + 1} of the stream",
                allowed=f"at most {self._most_tasks} distinct task names",
                consequence="the batch is refused",
                remedy="name regimes, not steps; the step belongs in the cursor",
            )

    def arrive(self, producer: str, task: str, rows: int) -> tuple[int, int]:
        """Take note of `rows` samples and say which (task index, visit) they belong to."""
        index = self.index_of(task)
        if self._current.get(producer) != index:
            self.leave(producer)
            self._enter(producer, index)
        number = self._open[index]
        visit = self._visits[number]
        visit.samples += rows
        visit.unseen += rows
        self._arrived[index] += rows
        return index, number

    def leave(self, producer: str) -> None:
        """The producer is in no task any more; it said BYE, expired, or went on to another."""
        task = self._current.pop(producer, None)
        if task is None:
            return
        number = self._open[task]
        visit = self._visits[number]
        visit.producers.discard(producer)
        if not visit.producers:
            del self._open[task]
            self._end_if_over(number)

    def resolve(self, visit: int, rows: int, *, dropped: bool = False) -> None:
        """`rows` samples of a visit were drawn for the first time, or (`dropped`) given up."""
        entry = self._visits.get(visit)
        if entry is None or entry.unseen < rows:
            unseen = entry.unseen if entry else 0
            raise InternalError(f"visit {visit} has {unseen} unseen samples, {rows} were resolved")
        entry.unseen -= rows
        if dropped:
            entry.dropped += rows
            self._dropped[entry.task] += rows
        else:
            self._trained[entry.task] += rows
        self._end_if_over(visit)

    def refuse(self, task: str, rows: int) -> None:
        """Count samples that were dropped before they belonged to any visit."""
        index = self.index_of(task)
        self._arrived[index] += rows
        self._dropped[index] += rows

    def take_ended(self) -> list[TaskVisit]:
        """The visits that ended since the last call, in the order in which they did."""
        ended, self._ended = self._ended, []
        return ended

    @property
    def has_ended(self) -> bool:
        """Whether `take_ended` has something to give."""
        return bool(self._ended)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tasks by index."""
        return tuple(self._names)

    def counts(self) -> tuple[TaskCount, ...]:
        """Counters by task index."""
        columns = zip(self._names, self._arrived, self._trained, self._dropped, strict=True)
        return tuple(TaskCount(*column) for column in columns)

    def is_in_a_task(self, producer: str) -> bool:
        """Whether the producer has a visit open."""
        return producer in self._current

    def producers(self) -> set[str]:
        """Ids of the producers that are in a task."""
        return set(self._current)

    def state_dict(self) -> dict[str, Any]:
        return {
            "names": list(self._names),
            "arrived": list(self._arrived),
            "trained": list(self._trained),
            "dropped": list(self._dropped),
            "next_visit": self._next_visit,
            "visits": [
                [number, v.task, v.samples, v.unseen, v.dropped, sorted(v.producers)]
                for number, v in self._visits.items()
            ],
            "ended": [[e.visit, e.task, e.name, e.samples, e.dropped] for e in self._ended],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if set(state) != _STATE_KEYS:
            raise OperatorError(
                f"the saved tasks have wrong keys: {sorted(set(state) ^ _STATE_KEYS)}",
                consequence="they cannot be resumed",
            )
        self._names, self._index = [], {}
        self._arrived, self._trained, self._dropped = [], [], []
        for name in state["names"]:
            self._add_name(name)
        self._arrived = list(state["arrived"])
        self._trained = list(state["trained"])
        self._dropped = list(state["dropped"])
        self._next_visit = state["next_visit"]
        self._visits, self._open, self._current = {}, {}, {}
        for number, task, samples, unseen, dropped, producers in state["visits"]:
            self._visits[number] = _Visit(task, samples, unseen, dropped, set(producers))
            if producers:
                self._open[task] = number
                self._current.update(dict.fromkeys(producers, task))
        self._ended = [TaskVisit(*entry) for entry in state["ended"]]

    def _add_name(self, name: str) -> None:
        self._index[name] = len(self._names)
        self._names.append(name)
        for counter in (self._arrived, self._trained, self._dropped):
            counter.append(0)

    def _enter(self, producer: str, task: int) -> None:
        self._current[producer] = task
        if task not in self._open:
            self._open[task] = self._next_visit
            self._visits[self._next_visit] = _Visit(task)
            self._next_visit += 1
        self._visits[self._open[task]].producers.add(producer)

    def _end_if_over(self, number: int) -> None:
        visit = self._visits[number]
        if visit.producers or visit.unseen:
            return
        del self._visits[number]
        name = self._names[visit.task]
        self._ended.append(TaskVisit(number, visit.task, name, visit.samples, visit.dropped))
