"""The books: where every row is that was ever pushed, and where it may be.

A *life* is one run of a producer, a *lineage* what the service knows: it goes back to the
checkpoint when the service is restored. For every row pushed exactly one of these holds:

    pending      in the producer's window, on its way, or (not settled) gone with its producer
    present      settled, and drawn, taken in as a probe, or waiting in the ring; once
    quarantined  settled and poisoned, never present
    dropped      by the producer before it was ever sent, never present; or by the buffer's policy,
                 before it came in (refused) or after
    lost         settled by a life of the service that crashed, behind its last checkpoint
"""

from __future__ import annotations

from insitu.stream.log.record import Kind
from insitu.stream.log.stream_log import StreamLog
from insitu.stream.stamp import Position
from insitu.wire.messages import Ack, AckLevel
from insitu.wire.sender import SendWindow
from insitu_service.ingest.session import Session
from simulation.audit import audit_service, waiting_rows
from simulation.life import Broken, Life, pending, require
from simulation.lineage import Lineage
from simulation.runs import Runs, has_joined, left_out
from simulation.service import Service


class Books:
    """Checks after every event that each row is where it may be.

    Args:
        ack_level: what the service promises.
        when_full: the buffer's policy.
    """

    def __init__(self, ack_level: AckLevel, when_full: str) -> None:
        self.lives: list[Life] = []
        self.lineage = Lineage()
        self.runs = Runs()
        self._ack_level = ack_level
        self._when_full = when_full
        self._by_epoch: dict[tuple[str, int], Life] = {}
        self._settled_once: dict[int, int] = {}  # by lives of the service that ended
        self._durable: dict[int, int] = {}  # synced, so that nothing may undo it
        self._record = 0  # of the log, the newest that was seen
        self._cache_was_lost = False
        self._quarantined = self._lost = self._refused = 0  # by this life of the service
        self._unfenced: set[int] = set()  # its sessions that began while nothing could be written
        self._seen_losses: set[int] = set()
        self._lost_to: dict[int, int] = {}  # by life: up to this row nobody has what is missing
        self._ends: dict[int, list[tuple[int, int]]] = {}  # by life: (batch, row behind it)
        self._trained: dict[int, int] = {}  # by life: the newest batch that an ack told

    def begin_life(
        self, producer_id: str, epoch: int, *, poisons: bool, resumes: bool = False
    ) -> Life:
        life = Life(len(self.lives), producer_id, epoch, poisons=poisons, resumes=resumes)
        self.lives.append(life)
        self._by_epoch[producer_id, epoch] = life
        return life

    # lives of the service

    def service_ends(self) -> None:
        for number, rows in self.lineage.settled.items():
            self._settled_once[number] = max(rows, self._settled_once.get(number, 0))
        self.runs.service_ends(self.lineage)
        self._quarantined = self._lost = self._refused = 0
        self._unfenced, self._seen_losses = set(), set()
        self._trained, self._lost_to = {}, {}

    def service_begins(self, service: Service, saved: Lineage, *, cache_was_lost: bool) -> None:
        """It knows what it must: its last checkpoint without a log, with one all that was logged.

        Args:
            saved: what the checkpoint knew.
            cache_was_lost: what was written and not synced may be gone, by a loss of power or by
                a sync that failed.
        """
        if service.log is None:
            self.lineage = saved.copy()
            for number, ends in self._ends.items():
                settled = saved.settled.get(number, 0)
                self._ends[number] = [each for each in ends if each[1] <= settled]
            for producer_id, position in service.positions.items():
                settled = saved.settled.get(self._life(producer_id, position).number, 0)
                require(position.rows == settled, f"{producer_id} is restored to {position}")
            return
        self._cache_was_lost |= cache_was_lost
        self.lineage.newest = {name: place.epoch for name, place in service.positions.items()}
        ends = dict(self.lineage.settled)
        for life in self.lives:
            position = service.positions.get(life.producer_id)
            self._recover(life, position, cache_was_lost=cache_was_lost)
        self._see_the_unseen(service.log, ends)

    def _recover(self, life: Life, position: Position | None, *, cache_was_lost: bool) -> None:
        number, lineage = life.number, self.lineage
        epoch = -1 if position is None else position.epoch
        before = lineage.settled.get(number, 0)
        after = before
        if position is None or epoch < life.epoch:
            after = 0
        elif epoch == life.epoch:
            after = position.rows
            pushed = after <= life.pushed or (life.resumes and not position.seq)
            require(pushed, f"{life.producer_id}: {position} was never pushed")
        least = self._durable.get(number, 0) if cache_was_lost else before
        require(after >= least, f"{life.producer_id}: {after} rows of {least} are in the log")
        lineage.settled[number] = after
        if life.resumes:
            self._recover_run(life, position, before)
        known = [each for each in self._ends.get(number, []) if each[1] < after]
        if position is not None and epoch == life.epoch:
            known.append((position.seq, after))
        self._ends[number] = known
        for rows in (lineage.lost, lineage.refused):
            rows[number] = {row for row in rows.get(number, ()) if row < after}

    def _recover_run(self, life: Life, position: Position | None, noted: int) -> None:
        """Of a run that resumes: whether a batch of it is known now."""
        knows = position is not None and (position.epoch, position.seq) > (life.epoch, 0)
        joined = has_joined(life, self.lineage)
        if joined and not knows:
            self.lineage.joined[life.producer_id].remove(life)
        elif knows and not joined and position is not None and position.epoch == life.epoch:
            self._join(life, noted)

    def _join(self, life: Life, noted: int) -> None:
        self.runs.join(life, noted, self.lineage, may_be_lost=self._may_lose)

    @property
    def _may_lose(self) -> bool:
        """Whether the service may have lost what an earlier life of it acknowledged."""
        return self._ack_level == AckLevel.RECEIVED or (
            self._ack_level == AckLevel.LOGGED and self._cache_was_lost
        )

    def _see_the_unseen(self, log: StreamLog, ends: dict[int, int]) -> None:
        """What the dying service logged and nobody saw: refusals, and losses that it noted.

        Args:
            ends: by life, the row behind what was settled before; goes on with the records.
        """
        reader = log.reader(min(self._record, log.appended))
        while (record := reader.next()) is not None:
            stamp = record.stamp
            life = self._by_epoch.get((stamp.producer_id, stamp.epoch)) if stamp else None
            if stamp is None or life is None:
                continue
            rows = range(stamp.first_row, stamp.first_row + record.rows)
            if record.kind == Kind.REFUSE:
                self.lineage.refused.setdefault(life.number, set()).update(rows)
            elif record.kind == Kind.SKIP and not rows:  # a position without a batch
                unknown = set(range(ends.get(life.number, 0), stamp.first_row))
                unknown.difference_update(left_out(life, self.lineage))
                self._settle_lost(life, unknown - life.dropped)
            ends[life.number] = max(rows.stop, ends.get(life.number, 0))
        reader.close()
        self._record = log.appended

    def _life(self, producer_id: str, position: Position) -> Life:
        life = self._by_epoch.get((producer_id, position.epoch))
        if life is None:
            raise Broken(f"{producer_id} has a position of epoch {position.epoch}")
        return life

    # after every event

    def after_message(self, service: Service) -> None:
        """Positions only grow, within what was pushed, and never for an older epoch."""
        require(not service.intake.refused_messages["internal"], "a message raised")
        lineage = self.lineage
        for session in service.sessions:
            self._see_loss(session)
        for producer_id, position in service.positions.items():
            life = self._life(producer_id, position)
            newest = lineage.newest.get(producer_id, 0)
            before = lineage.settled.get(life.number, 0)
            if life.resumes and not position.seq:
                self._note_run(life, position, is_new=position.epoch > newest)
            elif position.rows != before:
                if not has_joined(life, lineage):
                    session = service.sessions.of_producer(producer_id)
                    if position.epoch > newest and session is not None:  # by its HELLO
                        before = session.receiver.next_row - session.receiver.lost_rows
                    self._join(life, before)
                    before = 0
                require(position.rows > before, f"{producer_id} goes back to row {position.rows}")
                behind = f"{producer_id}: epoch {position.epoch} is taken from behind the fence"
                require(position.epoch >= newest, behind)
                self._settle(life, before, position.rows, service)
                self._ends.setdefault(life.number, []).append((position.seq, position.rows))
            lineage.newest[producer_id] = max(position.epoch, newest)
        for session in service.sessions:
            self._check_fence(session, service)
        if service.log is not None:
            self._record = service.log.appended
            if service.log.synced == self._record:
                self._durable.update(lineage.settled)

    def _note_run(self, life: Life, position: Position, *, is_new: bool) -> None:
        """A run that resumes has a place and no batch yet."""
        if is_new and life.base is None:
            self.runs.is_told(life, position, self.lineage)
        self.lineage.settled[life.number] = position.rows

    def _see_loss(self, session: Session) -> None:
        """What a session begins with that nobody has, noted in the position now or later."""
        receiver = session.receiver
        if receiver.lost_rows and receiver.session not in self._seen_losses:
            self._seen_losses.add(receiver.session)
            life = self._by_epoch[session.producer_id, session.hello.epoch]
            self._lost_to[life.number] = receiver.next_row

    def _check_fence(self, session: Session, service: Service) -> None:
        """A session keeps older lives out for ever, unless there was no way to write that down.

        There is none while the disk takes nothing, nor behind the last checkpoint of a stop: who
        comes that late, in a turn that began before it, has nothing taken from it either.
        """
        hello, number = session.hello, session.receiver.session
        newest = self.lineage.newest.get(hello.producer_id, -1)
        if hello.epoch != newest and (service.inlet.problem or service.buffer.is_shut):
            self._unfenced.add(number)
        if hello.epoch != newest and (hello.epoch < newest or number not in self._unfenced):
            raise Broken(
                f"{hello.producer_id}: epoch {hello.epoch} has a session, the fence is at {newest}"
            )

    def _settle(self, life: Life, first: int, end: int, service: Service) -> None:
        require(end <= life.pushed, f"{life.producer_id}: row {end - 1} was never pushed")
        self.lineage.settled[life.number] = end
        if life.resumes:
            self.runs.advance(life, self.lineage)
        rows = {row for row in range(first, end) if row not in life.dropped}
        rows.difference_update(left_out(life, self.lineage))
        intake = service.intake
        lost = {row for row in rows if row < self._lost_to.get(life.number, 0)}
        if lost:
            self._lost += len(lost)
            counted = f"{len(lost)} rows are lost, {intake.lost_samples} counted"
            require(intake.lost_samples >= self._lost, counted)
            self._settle_lost(life, lost)
            rows -= lost
        if not rows:
            return
        counted = sum(intake.quarantined_samples.values())
        refused = intake.received_samples - intake.accepted_samples - counted
        if refused > self._refused:
            require(self._when_full == "drop_newest", f"{refused} rows are refused")
            require(refused == self._refused + len(rows), f"{refused} are counted, not {rows}")
            self._refused = refused
            self.lineage.refused.setdefault(life.number, set()).update(rows)
            return
        self._quarantined += len(life.poisoned & rows)
        require(
            counted == self._quarantined,
            f"{counted} rows are counted as quarantined, {self._quarantined} were poisoned",
        )

    def _settle_lost(self, life: Life, rows: set[int]) -> None:
        once = self._settled_once.get(life.number, 0)
        require(max(rows, default=-1) < once, f"{rows} are counted lost and were not taken")
        require(self._may_lose or not rows, f"{rows} of {life.producer_id} are lost")
        self.lineage.lost.setdefault(life.number, set()).update(rows)

    def after_ack(self, service: Service, session: Session, ack: Ack) -> None:
        """Nothing waits of what an ack calls trained."""
        life = self._by_epoch[session.producer_id, session.hello.epoch]
        if ack.trained <= self._trained.get(life.number, 0) or not service.log_is_readable:
            return
        self._trained[life.number] = ack.trained
        ends = self._ends.get(life.number, [])
        end = max((row for seq, row in ends if seq <= ack.trained), default=0)
        waiting, _ = waiting_rows(service, probes=False)  # which are never trained
        early = [row for row in waiting.get(life.number, ()) if row < end]
        require(not early, f"{early} of {life.producer_id} wait and are told as trained")

    def after_producer(self, life: Life, window: SendWindow) -> None:
        """What the window let go of was settled by somebody, and as safely as promised."""
        books = window.books
        known = books.acknowledged_rows + books.quarantined_rows + books.dropped_rows_in_all
        pushed = window.next_row - life.begun
        if not books.pushed_rows == pushed == known + books.pending_rows:
            raise Broken(f"the window's books do not balance: {books}")
        row = window.first_available[1] - 1
        while row in life.dropped:
            row -= 1
        if row < life.begun:
            return
        number = life.number
        if self._ack_level == AckLevel.DURABLE:
            most = self._durable.get(number, 0)
        else:
            most = max(self.lineage.settled.get(number, 0), self._settled_once.get(number, 0))
        if row >= most:
            raise Broken(f"{life.producer_id} let go of row {row}, of which {most} were taken")

    # now and then, and at the end

    def audit(self, service: Service | None, windows: dict[int, SendWindow]) -> None:
        """Look at every row; `windows` are those of the producers that live, by their lives."""
        if service is not None and service.log_is_readable:
            audit_service(service, self.lives, self.lineage, self._when_full)
        for life in self.lives:
            if (window := windows.get(life.number)) is not None:
                self._audit_pending(life, window)

    def _audit_pending(self, life: Life, window: SendWindow) -> None:
        settled = self.lineage.settled.get(life.number, 0)
        known = max(settled, self._settled_once.get(life.number, 0), life.begun)
        gone = set(range(known, life.pushed)).difference(pending(window), life.dropped)
        if gone:
            raise Broken(f"rows {gone} of {life.producer_id} have vanished")
