"""Which samples the next draw takes, and when there are enough: the buffer without its threads.

Stands between the arrival queue and the policy: admits what the pace asks for, draws, drops,
and keeps the books on samples and tasks. Pure: no lock (the buffer holds its own around every
call), no clock (it is told the time), no data (slot numbers only).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from insitu.batch import Column
from insitu.errors import OperatorError
from insitu.sampling import Indices
from insitu.stream.arrivals import Arrivals
from insitu.stream.pacing import Pace
from insitu.stream.policies import NO_SLOTS, Drawn, Policy
from insitu.stream.row_books import RowBooks
from insitu.stream.state import Counters
from insitu.stream.status import BufferStatus, TaskFill
from insitu.tasks import TaskLedger, TaskVisit


class DrawScheduler:
    """The order of draws.

    Args:
        policy, pace, ledger: see `StreamBuffer`.
        columns: (capacity, len(Column)) provenance by slot; TASK and VISIT are written when a
            sample is admitted, since only then is it known which visit it belongs to.
        places: (capacity, 2) record and row by slot.
        generator: of all random draws.
    """

    def __init__(
        self,
        policy: Policy,
        pace: Pace,
        ledger: TaskLedger,
        columns: Indices,
        places: Indices,
        generator: torch.Generator,
    ) -> None:
        if policy.capacity_samples != len(columns):
            raise OperatorError(
                f"the policy is made for {policy.capacity_samples} samples, "
                f"the buffer for {len(columns)}",
            )
        if policy.draws_once and pace.most_draws is None and pace.worth(1000) != 1000:
            raise OperatorError(
                f"samples_per_insert is not 1 with {type(policy).__name__}",
                allowed="1: this policy draws each sample exactly once",
                remedy="use the reservoir, or samples_per_insert 1",
            )
        self.arrivals = Arrivals(len(columns), ledger)
        self.counters = Counters()
        self.books = RowBooks()
        #: the stream is over, and what is left is drawn without watermark and pace
        self.ending = False
        self._policy = policy
        self._pace = pace
        self._ledger = ledger
        self._tasks = columns[:, Column.TASK]
        self._visits = columns[:, Column.VISIT]
        self._places = places
        self._generator = generator
        self._partial_since: float | None = None

    @property
    def unseen(self) -> int:
        """Samples that were never drawn, admitted or not."""
        return self._policy.unseen + len(self.arrivals)

    def ready(self, batch_size: int, *, ended: bool, now: float) -> tuple[int, Indices]:
        """Admit what the next draw may see.

        Args:
            ended: no more is coming.
            now: seconds, rising.

        Returns:
            how many rows the draw would give, 0 while it has to wait, and the slots that were
            evicted meanwhile.
        """
        rows, evicted = 0, NO_SLOTS
        if not self.ending:
            # at a fixed pace the end, too, comes at a place in the order of draws
            if not (ended and self._pace.most_draws is not None):
                rows, evicted = self._ready_at_pace(batch_size, now)
            self.ending = ended and rows == 0
        if self.ending:
            more = self._admit(min(len(self.arrivals), self._policy.room()))
            evicted = np.concatenate((evicted, more))
            rows = self._policy.drawable(batch_size, self._visits, None, True)
        if rows == 0:
            # whoever left while this draw waits left before the next arrival: order, not time
            self.arrivals.pass_leading_marks()
        return rows, evicted

    def lingers_until(self) -> float:
        """When a batch that is not full will be drawn all the same."""
        if self._partial_since is None or self._pace.linger_seconds is None:
            return math.inf
        return self._partial_since + self._pace.linger_seconds

    def take(self, rows: int, batch_size: int) -> Drawn:
        """Draw as many rows as `ready` said, and settle the books of pace and tasks."""
        if not self.ending:
            # what a full reservoir had no room for is forgiven, see `insitu.stream.pacing`
            self.counters.paced -= self._pace.worth(self._missing(batch_size))
        drawn = self._policy.draw(
            rows, self._visits, self._generator, self._pace.most_draws, self.ending
        )
        self._resolve(drawn.first, dropped=False)
        self.books.drawn(self._places[drawn.first])
        self.counters.paced += rows
        self.counters.drawn += rows
        self.counters.drawn_first += len(drawn.first)
        if not self._policy.draws_once:
            self.counters.evicted += len(drawn.freed)
        self._partial_since = None
        return drawn

    def drop_oldest(self, count: int) -> Indices:
        """Give up the `count` oldest unseen samples and return their slots."""
        admitted = self._policy.drop_oldest(count)
        self._resolve(admitted, dropped=True)
        self.counters.inserted -= len(admitted)
        self.counters.dropped += count
        slots = np.concatenate((admitted, self.arrivals.drop(count - len(admitted))))
        self.books.dropped(self._places[slots])
        return slots

    def take_ended(self) -> tuple[TaskVisit, ...]:
        """Visits all of whose samples have been drawn or dropped."""
        return tuple(self._ledger.take_ended())

    def has_ended_tasks(self) -> bool:
        return self._ledger.has_ended

    def held(self) -> Indices:
        """Slots of all samples: the policy's, then the arrivals in order."""
        return np.concatenate((self._policy.held(), self.arrivals.slots()))

    def unseen_slots(self) -> Indices:
        """Slots of the samples that were never drawn."""
        waiting = self._policy.held()[: self._policy.unseen]
        return np.concatenate((waiting, self.arrivals.slots()))

    def status(self, *, free_samples: int, ended: bool) -> BufferStatus:
        """Fill and counters at this moment."""
        counters = self.counters
        return BufferStatus(
            capacity_samples=len(self._places),
            free_samples=free_samples,
            reserved_samples=counters.reserved,
            arrivals_samples=len(self.arrivals),
            unseen_samples=self.unseen,
            seen_samples=self._policy.seen,
            received=counters.received,
            drawn_first=counters.drawn_first,
            drawn=counters.drawn,
            dropped=counters.dropped,
            evicted=counters.evicted,
            tasks=self.task_fills(),
            ended=ended,
        )

    def task_fills(self) -> tuple[TaskFill, ...]:
        waiting = self.arrivals.rows_by_task()
        seen_slots = self._policy.held()[self._policy.unseen :]
        counts = self._ledger.counts()
        seen = np.bincount(self._tasks[seen_slots], minlength=len(counts))
        fills = []
        for count, kept in zip(counts, seen.tolist(), strict=True):
            arrived = count.arrived + waiting.get(count.name, 0)
            unseen = arrived - count.trained - count.dropped
            fills.append(TaskFill(count.name, unseen, kept, arrived, count.trained, count.dropped))
        return tuple(fills)

    def state_dict(self, number: Indices) -> dict[str, Any]:
        """State in which slots go by `number[slot]`."""
        return {
            "policy": {type(self._policy).__name__: self._policy.state_dict(number)},
            "pace": self._pace.state_dict(),
            "arrivals": self.arrivals.segments(),
            "ledger": self._ledger.state_dict(),
            "counters": self.counters.state_dict(),
            "generator": self._generator.get_state(),
            "ending": self.ending,
        }

    def load_state_dict(self, state: Mapping[str, Any], rows: int) -> None:
        """Take over a state whose samples lie in slots `[0, rows)`."""
        self._policy.load_state_dict(state["policy"][type(self._policy).__name__])
        admitted = self._policy.unseen + self._policy.seen
        self.arrivals.replace(np.arange(admitted, rows), state["arrivals"])
        self._ledger.load_state_dict(state["ledger"])
        self.counters = Counters(**state["counters"])
        self._generator.set_state(state["generator"].cpu())
        self.ending = state["ending"]
        self._partial_since = None

    def _ready_at_pace(self, batch_size: int, now: float) -> tuple[int, Indices]:
        needed = min(self._missing(batch_size), self._policy.room())
        if needed > len(self.arrivals):
            return 0, NO_SLOTS
        evicted = self._admit(needed)
        rows = self._policy.drawable(batch_size, self._visits, self._pace.most_draws, False)
        if rows in (0, batch_size) or self._policy.is_cut(batch_size, self._visits):
            return rows, evicted
        if self._partial_since is None:
            self._partial_since = now
        return (rows if now >= self.lingers_until() else 0), evicted

    def _missing(self, batch_size: int) -> int:
        """Arrivals that the pace wants to see admitted before a draw of `batch_size`."""
        return self._pace.wanted(
            inserted=self.counters.inserted,
            sampled=self.counters.paced,
            batch_size=batch_size,
            watermark=self._policy.watermark_samples,
            arrived=len(self.arrivals),
        )

    def _admit(self, count: int) -> Indices:
        """Hand `count` arrivals to the policy; returns the slots evicted for them."""
        if count == 0:
            return NO_SLOTS
        slots, runs = self.arrivals.admit(count)
        begin = 0
        for rows, task, visit in runs:
            run = slots[begin : begin + rows]
            self._tasks[run] = task
            self._visits[run] = visit
            begin += rows
        evicted = self._policy.admit(slots, self._generator)
        self.counters.evicted += len(evicted)
        self.counters.inserted += count
        return evicted

    def _resolve(self, slots: Indices, *, dropped: bool) -> None:
        counts = Counter(self._visits[slots].tolist())  # np.unique takes ten times as long
        for visit in sorted(counts):
            self._ledger.resolve(visit, counts[visit], dropped=dropped)
