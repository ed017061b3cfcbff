"""The inlet with the stream log in front of the buffer: accepted means written.

    batch complete -> record appended to the log -> its slots committed to the buffer

Both from the same memory: what is appended are views of the ring, so the ring that the learner
draws from is the hot end of the log. While records wait to enter the ring (after a restart those
behind the checkpoint, or what was *spilled* because the ring was full), whatever arrives is put
together in `Staging`, appended, and enters behind them by `Playback`. So a restarted service
accepts at once, and the order of the log is the order of the buffer, always.

When the log cannot be written (the disk is full, say) nothing is accepted: batches stay with
their producers, `problem` says why, and each turn tries again.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

from insitu.errors import OperatorError
from insitu.stream.buffer import StreamBuffer
from insitu.stream.inlet import Inlet, Keep, ProbeSink
from insitu.stream.log.errors import LogFailed, LogFull
from insitu.stream.log.reader import LogReader
from insitu.stream.log.record import WITH_ROWS, Kind, Record
from insitu.stream.log.recovery import Recovery
from insitu.stream.log.stream_log import StreamLog
from insitu.stream.playback import Playback, enter_mark
from insitu.stream.ring import Reservation
from insitu.stream.staging import Staging
from insitu.stream.stamp import Place, Position, Stamp, provenance

#: let in by one turn, so that messages do not wait for long
_FEED_BYTES = 16 << 20


@dataclass(frozen=True)
class Mark:
    """A record without rows that waits to be appended."""

    kind: Kind
    producer_id: str = ""


class LoggedInlet(Inlet):
    """See the module. Used by the ingest thread only, except for the plain numbers.

    Args:
        buffer: restored, or empty.
        probes: where held-out rows go.
        log: recovered by `recover`, before anything else.
        staging: has room for the largest batch that may come.
        most_rows: of a batch that is sure to get room in the ring.
        spill_samples: how many may wait in the log while the ring is full; 0: the ring's room is
            all there is. After a restart at least one ring full may come behind the backlog.
        on_appended: called when a record was; whoever syncs the log listens.
        clock: wall clock in ns, for what is kept for a time.
    """

    def __init__(
        self,
        buffer: StreamBuffer,
        probes: ProbeSink,
        log: StreamLog,
        staging: Staging,
        *,
        most_rows: int,
        spill_samples: int = 0,
        on_appended: Callable[[], None] = lambda: None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        super().__init__(buffer, probes)
        self.log = log
        self._staging = staging
        self._most_rows = most_rows
        self._spill_samples = spill_samples
        self._positions = buffer.positions()
        self._playback: Playback | None = None
        self._reader: LogReader | None = None
        self._backlog_samples = 0
        self._recovered_samples = 0  # of the backlog, what an earlier life accepted
        self._backlog_tasks: Counter[str] = Counter()
        self._backlog_producers: set[str] = set()
        self._ended = buffer.is_ended
        self._marks: deque[Mark] = deque()
        self._unsynced: deque[tuple[int, str, int, int]] = deque()
        self._durable: dict[str, tuple[int, int]] = {}
        self._problem = ""
        self._on_appended = on_appended
        self._clock = clock
        self._releasable = self._released = 0

    def recover(self) -> Recovery:
        """Read what the log holds behind the buffer's place; once, before anything else.

        Raises:
            OperatorError: the log does not go on from there, or holds what this configuration
                has no room for.
        """
        place = self._buffer.place
        recovery = self.log.recover(place.record, self._recovered, after_chain=place.chain)
        self.log.sync()
        for producer_id, position in self._positions.items():
            self._durable[producer_id] = position.epoch, position.seq
        if self.log.appended > place.record:
            self._fall_behind(place.record)
        return recovery

    # what the ingest side asks

    @property
    def backlog_samples(self) -> int:
        return self._backlog_samples

    @property
    def problem(self) -> str:
        return self.log.broken or self._problem

    def reserve(self, rows: int) -> Reservation | None:
        if self.problem:
            return None
        if self._playback is None:
            reservation = self._buffer.reserve(rows)
            if reservation is not None or not self._spill_samples:
                return reservation
        return self._staging.reserve(rows) if rows <= self._allowance() else None

    def abandon(self, reservation: Reservation) -> None:
        if self._staging.holds(reservation):
            self._staging.give_back(reservation)
        else:
            self._buffer.abandon(reservation)

    def commit(self, reservation: Reservation, stamp: Stamp, *, keep: Keep | None = None) -> bool:
        number = self._append_rows(Kind.BATCH, reservation, stamp, keep)
        if number is None:
            return False
        if self._playback is None and not self._staging.holds(reservation):
            place = Place(number, self.log.chain)
            if not self._buffer.commit(reservation, stamp, keep=keep, place=place):
                self._buffer.abandon(reservation)  # shut: the next service reads it from the log
            return True
        self._wait_in_log(number, stamp, _entering(Kind.BATCH, reservation.rows, keep))
        self.abandon(reservation)
        return True

    def probe(self, reservation: Reservation, stamp: Stamp, *, keep: Keep | None = None) -> bool:
        number = self._append_rows(Kind.PROBE, reservation, stamp, keep)
        if number is None:
            return False
        self._wait_in_log(number, stamp, 0)
        self.abandon(reservation)
        self.tend()
        return True

    def skip(self, stamp: Stamp, rows: int) -> bool:
        number = self._append(Kind.SKIP, stamp, rows)
        if number is None:
            return False
        if self._playback is None:
            self._buffer.skip(stamp, rows, place=Place(number, self.log.chain))
        return True

    def refuse(self, stamp: Stamp, rows: int) -> bool:
        self._buffer.check_task(stamp.task, self._backlog_tasks)
        number = self._append(Kind.REFUSE, stamp, rows)
        if number is None:
            return False
        if self._playback is None:
            self._buffer.refuse(stamp, rows, place=Place(number, self.log.chain))
        return True

    def leave(self, producer_id: str) -> None:
        self._backlog_producers.discard(producer_id)
        self._mark(Mark(Kind.LEAVE, producer_id))

    def end(self) -> None:
        if not self._ended:
            self._ended = True
            self._mark(Mark(Kind.END))

    def reopen(self) -> None:
        if self._ended or self._buffer.is_ended:
            self._ended = False
            self._mark(Mark(Kind.REOPEN))

    def position(self, producer_id: str) -> Position | None:
        return self._positions.get(producer_id)

    def durable(self, producer_id: str, epoch: int) -> int:
        synced = self.log.synced
        while self._unsynced and self._unsynced[0][0] <= synced:
            _, producer, *place = self._unsynced.popleft()
            self._durable[producer] = place[0], place[1]
        newest = self._durable.get(producer_id, (epoch, 0))
        return newest[1] if newest[0] == epoch else 0

    def is_synced(self, producer_id: str) -> bool:
        synced = self.log.synced
        return all(name != producer_id for number, name, *_ in self._unsynced if number > synced)

    def free_samples(self) -> int:
        if self.problem:
            return 0
        staged = min(self._staging.free_samples, self._allowance())
        if self._playback is not None:
            return staged
        free = self._buffer.free_samples()
        return free + staged if self._spill_samples else free

    def producers_in_tasks(self) -> set[str]:
        return self._buffer.producers_in_tasks() | self._backlog_producers

    def tend(self) -> bool:
        """Append what waits, and let the backlog in as the ring has room.

        Raises:
            LogFailed: the log is broken, and only a restart tells what of it is there.
        """
        if self.log.broken:
            raise LogFailed(
                f"the stream log is broken: {self.log.broken}",
                consequence="the service stops, and what was acknowledged as durable is safe",
                remedy="see to the disk, then start again with --resume",
            )
        self._append_marks()
        self._look_after_log()
        playback = self._playback
        if playback is None:
            return False
        more = playback.feed(_FEED_BYTES)
        if self._buffer.place.record == self.log.appended:
            self._playback = None
            assert self._reader is not None
            self._reader.close()
            self._backlog_producers.clear()
            self._staging.clear()
        return more

    def release(self, upto_record: int) -> None:
        """No kept checkpoint needs the records up to this one; called by any thread."""
        self._releasable = max(self._releasable, upto_record)

    # records on their way

    def _append_rows(
        self, kind: Kind, reservation: Reservation, stamp: Stamp, keep: Keep | None
    ) -> int | None:
        self._buffer.check_task(stamp.task, self._backlog_tasks)
        if stamp.sample_ids is not None:
            provenance(stamp, reservation.rows)  # what is wrong with them raises before the log
        return self._append(kind, stamp, reservation.rows, keep, reservation)

    def _append(
        self, kind: Kind, stamp: Stamp, rows: int, keep: Keep | None = None,
        reservation: Reservation | None = None,
    ) -> int | None:  # fmt: skip
        """The number of the new record; None when nothing was appended."""
        if self._buffer.is_shut or not self._append_marks():
            return None
        return self._append_now(kind, stamp, rows, keep, reservation)

    def _append_now(
        self, kind: Kind, stamp: Stamp | None, rows: int, keep: Keep | None = None,
        reservation: Reservation | None = None,
    ) -> int | None:  # fmt: skip
        if self._releasable > self._released:  # what was released may be written over
            self._look_after_log()
        try:
            number = self.log.append(
                kind,
                stamp,
                rows,
                keep=keep,
                payload=() if reservation is None else reservation.pieces(),
                payload_xxh3=None if reservation is None else reservation.xxh3,
            )
        except (LogFull, LogFailed) as error:
            self._problem = str(error)
            return None
        self._problem = ""
        self._on_appended()
        if stamp is not None and kind != Kind.LEAVE:
            self._advance(stamp, rows)
            self._unsynced.append((number, stamp.producer_id, stamp.epoch, stamp.seq))
        return number

    def _advance(self, stamp: Stamp, rows: int) -> None:
        before = self._positions.get(stamp.producer_id)
        self._positions[stamp.producer_id] = stamp.position(rows, before)

    def _mark(self, mark: Mark) -> None:
        self._marks.append(mark)
        self._append_marks()

    def _append_marks(self) -> bool:
        """Append the marks that wait, in order; False when one could not be."""
        while self._marks and not self._buffer.is_shut:
            mark = self._marks[0]
            stamp = Stamp(mark.producer_id, 0, 0, None, 0) if mark.kind == Kind.LEAVE else None
            number = self._append_now(mark.kind, stamp, 0)
            if number is None:
                return False
            self._marks.popleft()
            if self._playback is None:
                place = Place(number, self.log.chain)
                enter_mark(self._buffer, mark.kind, mark.producer_id, place)
        return not self._marks

    def _look_after_log(self) -> None:
        """Reserve room ahead, which also tells whether the log can be written (again)."""
        try:
            if self._releasable > self._released:
                self._released = self._releasable
                self.log.release(self._released, self._clock())
            self.log.prepare()
        except (LogFull, LogFailed) as error:
            self._problem = str(error)
        else:
            self._problem = ""

    # the backlog

    def _wait_in_log(self, number: int, stamp: Stamp, rows: int) -> None:
        """A record enters when those before it have."""
        self._note(stamp, rows)
        if self._playback is None:
            self._fall_behind(number - 1)

    def _note(self, stamp: Stamp, rows: int) -> None:
        self._backlog_samples += rows
        self._backlog_tasks[stamp.task] += 1
        self._backlog_producers.add(stamp.producer_id)

    def _fall_behind(self, record: int) -> None:
        """From the record behind this one on, the buffer is fed from the log."""
        self._reader = self.log.reader(record)
        self._playback = Playback(self._reader, self._buffer, self._probes, self._entered)

    def _entered(self, record: Record) -> None:
        if record.kind in (Kind.BATCH, Kind.PROBE):
            assert record.stamp is not None
            rows = _entering(record.kind, record.rows, record.keep)
            self._backlog_samples -= rows
            self._backlog_tasks[record.stamp.task] -= 1
            if not self._backlog_tasks[record.stamp.task]:
                del self._backlog_tasks[record.stamp.task]
            self._recovered_samples = max(0, self._recovered_samples - rows)

    def _allowance(self) -> int:
        """Samples that may still join the backlog."""
        most = self._spill_samples
        if self._playback is not None:
            most = max(most, self._buffer.capacity_samples)
        return max(0, most - (self._backlog_samples - self._recovered_samples))

    def _recovered(self, record: Record) -> None:
        kind, rows, stamp = record.header.kind, record.header.rows, record.stamp
        if stamp is None:
            self._ended = kind == Kind.END
        elif kind == Kind.LEAVE:
            self._backlog_producers.discard(stamp.producer_id)
        else:
            self._advance(stamp, rows)
            if kind in WITH_ROWS:
                if kind == Kind.BATCH and rows > self._most_rows:
                    raise self._too_large(record)
                entering = _entering(kind, rows, record.keep)
                self._note(stamp, entering)
                self._recovered_samples += entering

    def _too_large(self, record: Record) -> OperatorError:
        return OperatorError(
            f"record {record.number} of the stream log holds {record.rows} samples",
            allowed=f"{self._most_rows}, the room that is sure in the stream buffer",
            consequence="it could not be trained; nothing starts",
            remedy="resume with the buffer.capacity_samples that it was accepted with",
        )


def _entering(kind: Kind, rows: int, keep: Keep | None) -> int:
    """Of so many rows of a record, how many will wait to be trained."""
    if kind == Kind.PROBE:
        return 0
    return rows if keep is None else int(keep.sum())
