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
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from insitu.batch import Batch, Column
from insitu.errors import OperatorError, ProducerError
from insitu.schema import Schema
from insitu.stream import state as saved_state
from insitu.stream.blocks import Blocks
from insitu.stream.draw import Draw
from insitu.stream.pacing import Pace
from insitu.stream.policies import Policy
from insitu.stream.ring import Reservation, Ring
from insitu.stream.room import Room
from insitu.stream.scheduler import DrawScheduler
from insitu.stream.stamp import Place, Position, Stamp, provenance
from insitu.stream.status import BufferStatus
from insitu.tasks import DEFAULT_TASK, TaskLedger

WhenFull = Literal["block", "drop_oldest", "drop_newest"]


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
            that somebody may wait for, but not after every draw (see `insitu.stream.room`).
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
        self.schema = schema
        self.capacity_samples = capacity_samples
        self.on_room = on_room
        self._policy = policy
        self._pace = pace
        self._ledger = ledger
        self._when_full = when_full
        self._clock = clock
        self._ring = Ring(schema, capacity_samples)
        self._blocks = Blocks(schema, 3, pin_memory=pin_memory)
        self._scheduler = DrawScheduler(
            policy, pace, ledger, self._ring.columns, self._ring.places, generator
        )
        self._room = Room(capacity_samples, drops=when_full == "drop_oldest")
        self._positions: dict[str, Position] = {}
        self._place = Place(0)
        self._producers: dict[str, int] = {}
        self._condition = threading.Condition(threading.Lock())
        self._waiting = self._interrupted = self._saving = False
        self.is_ended = self.is_shut = False  # written under the lock, read by anybody

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
            missing = rows - len(self._room)
            if missing > 0 and self._may_drop(missing):
                self._room.put_back(self._scheduler.drop_oldest(missing))
                missing = 0
            if missing > 0:
                self._room.want(rows)
                return None
            slots = self._room.take(rows)
            self._scheduler.counters.reserved += rows
        return Reservation(self._ring, slots)

    def commit(
        self,
        reservation: Reservation,
        stamp: Stamp,
        *,
        keep: npt.NDArray[np.bool_] | None = None,
        place: Place | None = None,
    ) -> bool:
        """Publish the rows of a filled reservation, and the producer's position with them.

        Args:
            keep: (rows,) which rows enter, the others are quarantined; None for all.
            place: the record of the log that the batch is; None to number it here.

        Returns:
            False when the buffer is shut: nothing entered, and nothing may be acknowledged.

        Raises:
            ProducerError: the task is one too many, or ids or flags are not one a row; the
                reservation stays open.
        """
        assert reservation.open, "a reservation is committed once"
        rows, task = reservation.rows, stamp.task or DEFAULT_TASK
        columns = provenance(stamp, rows)
        slots, refused = reservation.slots, reservation.slots[:0]
        if keep is not None:
            slots, refused = reservation.slots[keep], reservation.slots[~keep]
        with self._condition:
            if self.is_shut:
                return False
            self._ledger.index_of(task)
            producer = self._producers.setdefault(stamp.producer_id, len(self._producers))
            columns[:, Column.PRODUCER] = producer
            self._advance(stamp, rows, place, entered=len(slots))
            reservation.publish(columns, self._place.record)
            if len(slots):
                self._scheduler.arrivals.push(stamp.producer_id, task, slots)
            self._room.put_back(refused)
            self._scheduler.counters.reserved -= rows
            self._scheduler.counters.received += len(slots)
            if self._waiting:
                self._condition.notify_all()
        return True

    def abandon(self, reservation: Reservation) -> None:
        """Give the slots of a reservation back that will not be committed."""
        assert reservation.open, "a reservation is given back once"
        reservation.open = False
        with self._condition:
            self._room.put_back(reservation.slots)
            self._scheduler.counters.reserved -= reservation.rows
            self._condition.notify_all()

    def skip(self, stamp: Stamp, rows: int, *, place: Place | None = None) -> bool:
        """Take note of the position after a batch of `rows` that did not enter (quarantine).

        Returns:
            False when the buffer is shut: the batch may not be acknowledged.
        """
        with self._condition:
            if self.is_shut:
                return False
            self._advance(stamp, rows, place)
        return True

    def refuse(self, stamp: Stamp, rows: int, *, place: Place | None = None) -> bool:
        """Count a batch that was dropped because the buffer was full, and its position.

        Returns:
            False when the buffer is shut: the batch may not be acknowledged.
        """
        with self._condition:
            if self.is_shut:
                return False
            self._ledger.refuse(stamp.task, rows)
            self._advance(stamp, rows, place)
            self._scheduler.counters.received += rows
            self._scheduler.counters.dropped += rows
        return True

    def leave(self, producer_id: str, *, place: Place | None = None) -> bool:
        """The producer said BYE or expired: after its last sample it is in no task any more.

        Returns:
            False when `place` was given and the buffer is shut: the record did not enter.
        """
        with self._condition:
            if not self._may_enter(place):
                return False
            self._scheduler.arrivals.mark_left(producer_id)
            self._condition.notify_all()
        return True

    def task_index(self, name: str) -> int:
        """Index of a task by its name; a new name gets the next one.

        Raises:
            ProducerError: there are too many names already.
        """
        with self._condition:
            return self._ledger.index_of(name)

    def check_task(self, name: str, beside: Collection[str]) -> None:
        """Whether a task may come, beside others that will; makes no index yet.

        Raises:
            ProducerError: there are too many names already.
        """
        with self._condition:
            self._ledger.check(name, beside)

    def free_samples(self) -> int:
        """Slots that reservations can get now."""
        return len(self._room)

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

    def position(self, producer_id: str) -> Position | None:
        """How far one producer has come; None when it never came."""
        return self._positions.get(producer_id)

    def trained(self, producer_id: str, epoch: int) -> int:
        """Its newest batch with which all are trained, or given up by the policy; 0 for none."""
        with self._condition:
            return self._scheduler.books.trained(producer_id, epoch)

    @property
    def place(self) -> Place:
        """The newest record that entered."""
        return self._place

    def producers(self) -> tuple[str, ...]:
        """Ids by the index that `Column.PRODUCER` holds."""
        with self._condition:
            return tuple(self._producers)

    def producers_in_tasks(self) -> set[str]:
        """Ids of the producers that are in a task, or will be once their samples are admitted."""
        with self._condition:
            return self._ledger.producers() | self._scheduler.arrivals.producers()

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
        if batch_size < 1 or self.largest_reservation(batch_size) < 1:
            raise OperatorError(
                f"a training batch of {batch_size} samples from a buffer of "
                f"{self.capacity_samples}, of which {self._policy.resident_samples} stay behind",
                allowed="1 or more, and room for a batch to arrive meanwhile",
                consequence="the learner would wait for ever",
                remedy="raise buffer.capacity_samples",
            )
        started = self._clock()
        deadline = math.inf if timeout_seconds is None else started + timeout_seconds
        block = self._blocks.lend(batch_size)
        with self._condition:
            self._scheduler.books.stepped()  # who draws again is done with what was drawn
            rows = self._wait(batch_size, deadline)
            drawn = None
            ended = self._scheduler.take_ended()
            if rows:
                drawn = self._scheduler.take(rows, batch_size)
        selected = self._clock()
        batch = None
        if drawn is None:
            self._blocks.give_back_unused(block)
        else:
            provenance = self._ring.gather(drawn.slots, block.bytes[:rows])
            batch = Batch(block.first(rows), provenance, rows)
            with self._condition:
                self._room.free(drawn.freed)
                if self._room.has_news(idle=False):
                    self._tell_of_room()
        if batch is None:
            return Draw(None, ended, selected - started, 0.0, None) if ended else None
        return Draw(batch, ended, selected - started, self._clock() - selected, block)

    def release(self, draw: Draw) -> None:
        """The batch of this draw was trained, or copied elsewhere. Once for each draw."""
        if draw.block is not None:
            self._blocks.give_back(draw.block)

    def end(self, *, place: Place | None = None) -> bool:
        """The stream is over: what is left comes out, then `draw` gives None at once.

        Returns:
            False when `place` was given and the buffer is shut: the record did not enter.
        """
        with self._condition:
            if not self._may_enter(place):
                return False
            self.is_ended = True
            self._condition.notify_all()
        return True

    def reopen(self, *, place: Place | None = None) -> bool:
        """The stream goes on after `end`; see there."""
        with self._condition:
            if not self._may_enter(place):
                return False
            self.is_ended = self._scheduler.ending = False
            self._condition.notify_all()
        return True

    def shut(self) -> None:
        """Take nothing more, for good: what comes after the last checkpoint would be lost."""
        with self._condition:
            self.is_shut = True

    def is_exhausted(self) -> bool:
        """The stream is over and every sample was drawn."""
        with self._condition:
            reserved = self._scheduler.counters.reserved
            return self.is_ended and self._scheduler.unseen == 0 and reserved == 0

    def rest(self, timeout_seconds: float) -> None:
        """Wait while the stream is over and there is nothing to draw.

        `reopen`, `interrupt` and the timeout end it.
        """
        with self._condition:
            if self.is_ended and self._scheduler.unseen == 0 and not self._interrupted:
                self._condition.wait(timeout_seconds)
            self._interrupted = False

    def interrupt(self) -> None:
        """Wake a waiting draw, or the next one that would wait; it returns None."""
        with self._condition:
            self._interrupted = True
            self._condition.notify_all()

    # ---- for everybody --------------------------------------------------------------------

    def task_names(self) -> tuple[str, ...]:
        """Names of the tasks by index."""
        with self._condition:
            return self._ledger.names

    def snapshot(self) -> BufferStatus:
        """Fill and counters at this moment."""
        with self._condition:
            return self._scheduler.status(free_samples=len(self._room), ended=self.is_ended)

    def state_dict(self) -> dict[str, Any]:
        """Everything committed and not yet drawn, and all that the next draws depend on.

        Call it from the learner's thread, between two draws: the rows are copied outside of the
        lock, which is safe because only draws (and drops, held off meanwhile) free them.
        Reservations that are not committed are no part of it. The rows lie in memory that the
        next call writes to.
        """
        with self._condition:
            held = self._scheduler.held()
            number = np.empty(self.capacity_samples, np.int64)
            number[held] = np.arange(len(held))
            state: dict[str, Any] = {
                "schema": self.schema.as_wire(),
                "scheduler": self._scheduler.state_dict(number),
                "positions": saved_state.of_positions(self._positions),
                "producers": list(self._producers),
                "ended": self.is_ended,
                "log": {"record": self._place.record, "chain": self._place.chain},
                **self._scheduler.books.state_dict(list(self._producers)),
            }
            self._saving = True
        try:
            state |= self._ring.save(held)
        finally:
            with self._condition:
                self._saving = False
                if self._room.is_wanted:
                    self._tell_of_room()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state; the next draws are bit-identical to those of the saved run.

        The capacity may differ as long as the rows fit; a reservoir then evicts differently.

        Raises:
            OperatorError: the state is of another schema or policy, or too large.
        """
        policy = type(self._policy).__name__
        saved_state.check(state, self.schema, policy, self.capacity_samples)
        rows = len(state["rows"])
        with self._condition:
            assert self._scheduler.counters.reserved == 0, "load a state before ingest starts"
            self._scheduler.load_state_dict(state["scheduler"], rows)
            self._ring.load(state)
            self._room.replace(np.arange(rows, self.capacity_samples))
            self._positions = saved_state.to_positions(state["positions"])
            self._producers = {name: i for i, name in enumerate(state["producers"])}
            self.is_ended = state["ended"]
            self._place = Place(**state["log"])
            unseen = self._ring.places[self._scheduler.unseen_slots()]
            self._scheduler.books.load_state_dict(state, unseen, self._positions)

    # ---- under the lock -------------------------------------------------------------------

    def _wait(self, batch_size: int, deadline: float) -> int:
        """Rows to draw; 0 when there are none yet, or only news of tasks."""
        while True:
            now = self._clock()
            rows, evicted = self._scheduler.ready(batch_size, ended=self.is_ended, now=now)
            self._room.free(evicted)
            if rows == 0 and self._room.has_news(idle=True):
                self._tell_of_room()
                continue
            over = self.is_ended and self._scheduler.counters.reserved == 0
            news = rows > 0 or self._scheduler.has_ended_tasks()
            if news or over or self._interrupted or now >= deadline:
                break
            wake = min(deadline, self._scheduler.lingers_until())
            self._waiting = True
            self._condition.wait(None if wake == math.inf else max(0.0, wake - now))
            self._waiting = False
        self._interrupted = False
        return rows

    def _advance(self, stamp: Stamp, rows: int, place: Place | None, *, entered: int = 0) -> None:
        before = self._positions.get(stamp.producer_id)
        self._positions[stamp.producer_id] = stamp.position(rows, before)
        self._place = place or Place(self._place.record + 1)
        identity = stamp.producer_id, stamp.epoch, stamp.seq
        self._scheduler.books.entered(self._place.record, *identity, rows=entered)

    def _may_enter(self, place: Place | None) -> bool:
        """Whether a mark enters; one that is a record may not come behind the last checkpoint."""
        if place is None:
            return True
        if not self.is_shut:
            self._place = place
        return not self.is_shut

    def _may_drop(self, rows: int) -> bool:
        enough = rows <= self._scheduler.unseen
        return self._when_full == "drop_oldest" and enough and not self._saving

    def _tell_of_room(self) -> None:
        """Let go of the lock meanwhile, so that whoever is told may call this buffer."""
        self._room.told()
        self._condition.release()
        try:
            self.on_room()
        finally:
            self._condition.acquire()
