"""The stream buffer: ingest writes batches in, the learner draws training batches out.

    reserve -> write fragments -> views (validate) -> commit      ingest thread
       free slots -> arrivals -> policy -> block -> Batch
    draw -> (transfer) -> release                                 learner thread

The library's only lock is in here, and nothing is copied under it: payload goes into slots that
only their reservation knows, and a batch is gathered from slots that belong to nobody else until
it is done. Between the two threads stand the arrival queue and the pace, which says how many
arrivals are admitted to the policy before each draw; with the fixed pace the draws are a
function of the order of arrival and the seed alone.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from insitu.batch import Batch, Column
from insitu.errors import OperatorError, ProducerError
from insitu.sampling import Indices
from insitu.schema import Schema
from insitu.stream import state as saved_state
from insitu.stream.arrivals import Arrivals
from insitu.stream.blocks import Block, Blocks
from insitu.stream.pacing import Pace
from insitu.stream.policies import Drawn, Policy
from insitu.stream.ring import Reservation, Ring
from insitu.stream.slots import SlotQueue
from insitu.stream.stamp import Position, Stamp
from insitu.stream.status import BufferStatus, TaskFill
from insitu.tasks import DEFAULT_TASK, TaskLedger, TaskVisit

WhenFull = Literal["block", "drop_oldest", "drop_newest"]


@dataclass(frozen=True, eq=False)
class Draw:
    """What the learner gets.

    Args:
        batch: fresh rows, valid until the draw is released and three more were made; None when
            there is only news of tasks.
        ended_tasks: visits whose samples were all drawn before this batch: consolidate them
            first.
        waited_seconds: until enough had arrived.
        copy_seconds: gathering the rows.
        block: the memory that the batch lies in.
    """

    batch: Batch | None
    ended_tasks: tuple[TaskVisit, ...]
    waited_seconds: float
    copy_seconds: float
    block: Block | None


class StreamBuffer:
    """A sample-level ring with a draw policy, a pace and the books on tasks.

    Args:
        schema: of the stream.
        capacity_samples: slots, allocated at once; must be the policy's.
        policy: which samples a draw takes.
        pace: how many arrivals are admitted before each draw.
        ledger: tasks and visits; used only under this buffer's lock.
        when_full: `block`: `reserve` gives None until there is room (credit keeps producers from
            sending); `drop_oldest`: the oldest unseen samples go; `drop_newest`: `reserve` gives
            None and the caller drops the batch and says so with `refuse`. Only `block` keeps the
            draws independent of timing.
        pin_memory: page-lock the ring's blocks for asynchronous copies to a CUDA device.
        generator: of all random draws; on the CPU.
        clock: seconds, rising; for `linger_seconds` and for what is measured.
        on_room: called by the learner's thread, outside of the lock, when slots became free
            after a reservation failed or while less than a quarter was free.
    """

    def __init__(
        self,
        schema: Schema,
        capacity_samples: int,
        policy: Policy,
        pace: Pace,
        ledger: TaskLedger,
        *,
        when_full: WhenFull = "block",
        pin_memory: bool = False,
        generator: torch.Generator,
        clock: Callable[[], float] = time.monotonic,
        on_room: Callable[[], None] = lambda: None,
    ) -> None:
        if policy.capacity_samples != capacity_samples:
            raise OperatorError(
                f"the policy is made for {policy.capacity_samples} samples, "
                f"the buffer for {capacity_samples}",
            )
        if policy.draws_once and pace.most_draws is None and pace.worth(1000) != 1000:
            raise OperatorError(
                f"samples_per_insert is not 1 with {type(policy).__name__}",
                allowed="1: this policy draws each sample exactly once",
                remedy="use the reservoir, or samples_per_insert 1",
            )
        self.schema = schema
        self.capacity_samples = capacity_samples
        self.on_room = on_room
        self._policy = policy
        self._pace = pace
        self._ledger = ledger
        self._when_full = when_full
        self._generator = generator
        self._clock = clock
        self._ring = Ring(schema, capacity_samples)
        self._blocks = Blocks(schema, 3, pin_memory=pin_memory)
        self._visits = self._ring.columns[:, Column.VISIT]
        self._free = SlotQueue(capacity_samples)
        self._free.push(np.arange(capacity_samples))
        self._arrivals = Arrivals(capacity_samples, ledger)
        self._positions: dict[str, Position] = {}
        self._producers: dict[str, int] = {}
        self._counters = saved_state.Counters()
        self._condition = threading.Condition(threading.Lock())
        self._waiting = self._interrupted = self._room_wanted = self._saving = False
        self._ended = False  # no more is coming
        self._ending = False  # and what is left is being drawn without watermark and pace
        self._partial_since: float | None = None

    # ---- ingest side ----------------------------------------------------------------------

    def reserve(self, rows: int) -> Reservation | None:
        """Slots for a batch of `rows` samples; None when there is no room (see `when_full`).

        Raises:
            ProducerError: so many rows can never get room at once.
        """
        most = self.capacity_samples - self._policy.resident_samples
        if not 1 <= rows <= most:
            raise ProducerError(
                f"a batch of {rows} samples",
                allowed=f"1 to {most}, the room in the stream buffer",
                consequence="the batch is refused",
                remedy="push fewer samples at once, or raise buffer.capacity_samples",
            )
        with self._condition:
            if len(self._free) < rows and self._when_full == "drop_oldest":
                self._drop_oldest(rows - len(self._free))
            if len(self._free) < rows:
                self._room_wanted = True
                return None
            slots = self._free.pop(rows)
            self._counters.reserved += rows
        return Reservation(self._ring, slots)

    def commit(self, reservation: Reservation, stamp: Stamp) -> None:
        """Publish the rows of a filled reservation, and the producer's position with them.

        Raises:
            ProducerError: the task is one too many, or ids or flags are not one a row; the
                reservation stays open.
        """
        assert reservation.open, "a reservation is committed once"
        rows, task = reservation.rows, stamp.task or DEFAULT_TASK
        with self._condition:
            self._ledger.index_of(task)
            self._write_provenance(reservation, stamp)
            reservation.open = False
            self._arrivals.push(stamp.producer_id, task, reservation.slots)
            self._positions[stamp.producer_id] = stamp.position(rows)
            self._counters.reserved -= rows
            self._counters.received += rows
            if self._waiting:
                self._condition.notify_all()

    def abandon(self, reservation: Reservation) -> None:
        """Give the slots of a reservation back that will not be committed."""
        assert reservation.open, "a reservation is given back once"
        reservation.open = False
        with self._condition:
            self._free.push(reservation.slots)
            self._counters.reserved -= reservation.rows
            self._condition.notify_all()

    def skip(self, stamp: Stamp, rows: int) -> None:
        """Take note of the position after a batch of `rows` that did not enter (quarantine)."""
        with self._condition:
            self._positions[stamp.producer_id] = stamp.position(rows)

    def refuse(self, stamp: Stamp, rows: int) -> None:
        """Count a batch that was dropped because the buffer was full, and its position."""
        with self._condition:
            self._ledger.refuse(stamp.task, rows)
            self._positions[stamp.producer_id] = stamp.position(rows)
            self._counters.received += rows
            self._counters.dropped += rows

    def leave(self, producer_id: str) -> None:
        """The producer said BYE or expired: after its last sample it is in no task any more."""
        with self._condition:
            self._arrivals.mark_left(producer_id)
            self._condition.notify_all()

    def free_samples(self) -> int:
        """Slots that reservations can get now."""
        return len(self._free)

    def largest_reservation(self, batch_size: int) -> int:
        """The most rows of one batch that are sure to get room, however the learner waits.

        Between a draw that waits for `batch_size` and a larger reservation that waits for room,
        neither could move.
        """
        waiting = self._pace.most_wanted(batch_size) - 1
        return self.capacity_samples - self._policy.resident_samples - waiting

    def positions(self) -> dict[str, Position]:
        """How far each producer has come, by its id."""
        with self._condition:
            return dict(self._positions)

    def producers(self) -> tuple[str, ...]:
        """Ids by the index that `Column.PRODUCER` holds."""
        with self._condition:
            return tuple(self._producers)

    # ---- learner side ---------------------------------------------------------------------

    def draw(self, batch_size: int, timeout_seconds: float | None = None) -> Draw | None:
        """Wait for the next batch of up to `batch_size` samples, or for tasks that ended.

        Shorter batches come at the end of a task (FIFO), after `linger_seconds` (free pace) and
        at the end of the stream.

        Args:
            timeout_seconds: None waits for ever, 0 does not wait.

        Returns:
            None after the timeout, after `interrupt()`, and once the stream has ended and
            everything was drawn.
        """
        self._check_batch_size(batch_size)
        started = self._clock()
        deadline = math.inf if timeout_seconds is None else started + timeout_seconds
        with self._condition:
            rows = self._wait(batch_size, deadline)
            ended = tuple(self._ledger.take_ended())
            if rows == 0:
                waited = self._clock() - started
                return Draw(None, ended, waited, 0.0, None) if ended else None
            block = self._blocks.lend(batch_size)
            drawn = self._take(rows, batch_size)
        selected = self._clock()
        batch = self._gather(drawn.slots, block)
        self._free_slots(drawn.freed)
        return Draw(batch, ended, selected - started, self._clock() - selected, block)

    def release(self, draw: Draw) -> None:
        """The batch of this draw was trained, or copied elsewhere."""
        if draw.block is not None:
            self._blocks.give_back(draw.block)

    def end(self) -> None:
        """The stream is over: what is left comes out, then `draw` gives None at once."""
        with self._condition:
            self._ended = True
            self._condition.notify_all()

    def reopen(self) -> None:
        """The stream goes on after `end`."""
        with self._condition:
            self._ended = self._ending = False

    def is_exhausted(self) -> bool:
        """The stream is over and every sample was drawn."""
        with self._condition:
            return self._ended and self._unseen() == 0 and self._counters.reserved == 0

    def interrupt(self) -> None:
        """Wake a waiting draw, or the next one that would wait; it returns None."""
        with self._condition:
            self._interrupted = True
            self._condition.notify_all()

    def snapshot(self) -> BufferStatus:
        """Fill and counters at this moment."""
        with self._condition:
            counters = self._counters
            return BufferStatus(
                capacity_samples=self.capacity_samples,
                free_samples=len(self._free),
                reserved_samples=counters.reserved,
                arrivals_samples=len(self._arrivals),
                unseen_samples=self._unseen(),
                seen_samples=self._policy.seen,
                received=counters.received,
                drawn_first=counters.drawn_first,
                drawn=counters.drawn,
                dropped=counters.dropped,
                evicted=counters.evicted,
                tasks=self._task_fills(),
                ended=self._ended,
            )

    # ---- state ----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything committed and not yet drawn, and all that the next draws depend on.

        Call it from the learner's thread, between two draws: the rows are copied outside of the
        lock, which is safe because only draws (and drops, held off meanwhile) free them.
        Reservations that are not committed are no part of it.
        """
        with self._condition:
            held = np.concatenate((self._policy.held(), self._arrivals.slots()))
            number = np.empty(self.capacity_samples, np.int64)
            number[held] = np.arange(len(held))
            state = {
                "schema": self.schema.as_wire(),
                "policy": {type(self._policy).__name__: self._policy.state_dict(number)},
                "pace": self._pace.state_dict(),
                "arrivals": self._arrivals.segments(),
                "ledger": self._ledger.state_dict(),
                "positions": saved_state.of_positions(self._positions),
                "producers": list(self._producers),
                "counters": self._counters.state_dict(),
                "generator": self._generator.get_state(),
                "ended": self._ended,
                "ending": self._ending,
            }
            self._saving = True
        try:
            index = torch.from_numpy(held)
            state["rows"] = self._ring.rows.index_select(0, index)
            state["provenance"] = self._ring.provenance.index_select(0, index)
        finally:
            with self._condition:
                self._saving = False
                wanted, self._room_wanted = self._room_wanted, False
            if wanted:
                self.on_room()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state; the next draws are bit-identical to those of the saved run.

        The capacity may differ as long as the rows fit; then a reservoir evicts differently.

        Raises:
            OperatorError: the state is of another schema, policy or version, or too large.
        """
        policy_name = type(self._policy).__name__
        saved_state.check(state, self.schema, policy_name, self.capacity_samples)
        rows = len(state["rows"])
        with self._condition:
            assert self._counters.reserved == 0, "a state is loaded before ingest starts"
            self._ring.rows[:rows] = state["rows"]
            self._ring.provenance[:rows] = state["provenance"]
            self._policy.load_state_dict(state["policy"][policy_name])
            slots = np.arange(self.capacity_samples)
            held = self._policy.unseen + self._policy.seen
            self._arrivals.replace(slots[held:rows], state["arrivals"])
            self._free.replace(slots[rows:])
            self._ledger.load_state_dict(state["ledger"])
            self._positions = saved_state.to_positions(state["positions"])
            self._producers = {name: i for i, name in enumerate(state["producers"])}
            self._counters = saved_state.Counters(**state["counters"])
            self._generator.set_state(state["generator"].cpu())
            self._ended, self._ending = state["ended"], state["ending"]
            self._partial_since = None

    # ---- under the lock -------------------------------------------------------------------

    def _wait(self, batch_size: int, deadline: float) -> int:
        """Rows to draw; 0 when there are none yet or only tasks have ended."""
        while True:
            rows = self._ready(batch_size)
            if rows == 0:
                # whoever left while this draw waits left before the next arrival: order, not time
                self._arrivals.pass_leading_marks()
            now = self._clock()
            if rows or self._ledger.has_ended or self._interrupted or now >= deadline:
                break
            if self._ended and self._counters.reserved == 0:
                break
            self._waiting = True
            wake = min(deadline, self._linger_until())
            self._condition.wait(None if wake == math.inf else max(0.0, wake - now))
            self._waiting = False
        self._interrupted = False
        return rows

    def _ready(self, batch_size: int) -> int:
        """Admit what this draw may see; how many rows it would give, 0 while it has to wait."""
        if not self._ending:
            # at a fixed pace the end, too, comes at a place in the order of draws
            free = self._pace.most_draws is not None
            rows = 0 if self._ended and free else self._ready_at_pace(batch_size)
            if rows or not self._ended:
                return rows
            self._ending = True
        self._admit(min(len(self._arrivals), self._policy.room()))
        return self._policy.drawable(batch_size, self._visits, None, True)

    def _ready_at_pace(self, batch_size: int) -> int:
        needed = min(self._missing(batch_size), self._policy.room())
        if needed > len(self._arrivals):
            return 0
        self._admit(needed)
        rows = self._policy.drawable(batch_size, self._visits, self._pace.most_draws, False)
        if rows == batch_size or self._policy.is_cut(batch_size, self._visits):
            return rows
        if rows == 0:
            return 0
        if self._partial_since is None:
            self._partial_since = self._clock()
        return rows if self._clock() >= self._linger_until() else 0

    def _linger_until(self) -> float:
        if self._partial_since is None or self._pace.linger_seconds is None:
            return math.inf
        return self._partial_since + self._pace.linger_seconds

    def _missing(self, batch_size: int) -> int:
        """Arrivals that the pace wants to see admitted before a draw of `batch_size`."""
        return self._pace.wanted(
            inserted=self._counters.inserted,
            sampled=self._counters.paced,
            batch_size=batch_size,
            watermark=self._policy.watermark_samples,
            arrived=len(self._arrivals),
        )

    def _admit(self, count: int) -> None:
        if count == 0:
            return
        slots, tasks, visits = self._arrivals.admit(count)
        self._ring.columns[slots, Column.TASK] = tasks
        self._visits[slots] = visits
        evicted = self._policy.admit(slots, self._generator)
        self._free.push(evicted)
        self._counters.evicted += len(evicted)
        self._counters.inserted += count

    def _take(self, rows: int, batch_size: int) -> Drawn:
        """Draw, and settle the books of pace and tasks."""
        if not self._ending:
            # what a full reservoir had no room for is forgiven, see `insitu.stream.pacing`
            self._counters.paced -= self._pace.worth(self._missing(batch_size))
        drawn = self._policy.draw(
            rows, self._visits, self._generator, self._pace.most_draws, self._ending
        )
        self._resolve(drawn.first, dropped=False)
        self._counters.paced += rows
        self._counters.drawn += rows
        self._counters.drawn_first += len(drawn.first)
        if not self._policy.draws_once:
            self._counters.evicted += len(drawn.freed)
        self._partial_since = None
        return drawn

    def _resolve(self, slots: Indices, *, dropped: bool) -> None:
        visits, counts = np.unique(self._visits[slots], return_counts=True)
        for visit, count in zip(visits.tolist(), counts.tolist(), strict=True):
            self._ledger.resolve(visit, count, dropped=dropped)

    def _drop_oldest(self, missing: int) -> None:
        """Free `missing` slots of the oldest unseen samples, or none if that is not enough."""
        if self._saving or missing > self._unseen():
            return
        admitted = self._policy.drop_oldest(missing)
        self._resolve(admitted, dropped=True)
        self._counters.inserted -= len(admitted)
        waiting = self._arrivals.drop(missing - len(admitted))
        self._free.push(admitted)
        self._free.push(waiting)
        self._counters.dropped += missing

    def _unseen(self) -> int:
        return self._policy.unseen + len(self._arrivals)

    def _write_provenance(self, reservation: Reservation, stamp: Stamp) -> None:
        rows = reservation.rows
        producer = self._producers.setdefault(stamp.producer_id, len(self._producers))
        columns = np.zeros((rows, len(Column)), np.int64)
        row_numbers = np.arange(stamp.first_row, stamp.first_row + rows)
        try:
            columns[:, Column.PRODUCER] = producer
            columns[:, Column.ROW] = row_numbers
            columns[:, Column.PRODUCED_AT_NS] = stamp.produced_at_ns
            columns[:, Column.SAMPLE_ID] = (
                row_numbers if stamp.sample_ids is None else stamp.sample_ids
            )
            columns[:, Column.FLAGS] = stamp.flags
        except (ValueError, OverflowError) as error:
            raise ProducerError(
                f"sample ids, flags or times of a batch do not fit: {error}",
                allowed=f"one 64-bit number for each of {rows} rows",
                consequence="the batch is refused",
            ) from None
        if reservation.start >= 0:
            self._ring.columns[reservation.start : reservation.start + rows] = columns
        else:
            self._ring.columns[reservation.slots] = columns

    def _task_fills(self) -> tuple[TaskFill, ...]:
        waiting = self._arrivals.rows_by_task()
        seen_slots = self._policy.held()[self._policy.unseen :]
        names = self._ledger.names
        seen = np.bincount(self._ring.columns[seen_slots, Column.TASK], minlength=len(names))
        fills = []
        for count, kept in zip(self._ledger.counts(), seen.tolist(), strict=True):
            more = waiting.get(count.name, 0)
            unseen = count.arrived - count.trained - count.dropped + more
            fills.append(
                TaskFill(
                    count.name, unseen, kept, count.arrived + more, count.trained, count.dropped
                )
            )
        return tuple(fills)

    # ---- outside of the lock --------------------------------------------------------------

    def _gather(self, slots: Indices, block: Block) -> Batch:
        rows = len(slots)
        index = torch.from_numpy(slots)
        torch.index_select(self._ring.rows, 0, index, out=block.rows[:rows])
        fields = {name: view[:rows] for name, view in block.fields.items()}
        return Batch(fields, self._ring.provenance.index_select(0, index), rows)

    def _free_slots(self, slots: Indices) -> None:
        if len(slots) == 0:
            return
        with self._condition:
            low = len(self._free) < self.capacity_samples // 4
            self._free.push(slots)
            call = low or self._room_wanted
            self._room_wanted = False
        if call:
            self.on_room()

    def _check_batch_size(self, batch_size: int) -> None:
        if batch_size < 1 or self.largest_reservation(batch_size) < 1:
            raise OperatorError(
                f"a training batch of {batch_size} samples from a buffer of "
                f"{self.capacity_samples}, of which {self._policy.resident_samples} stay behind",
                allowed="1 or more, and room for a batch to arrive meanwhile",
                consequence="the learner would wait for ever",
                remedy="raise buffer.capacity_samples",
            )
