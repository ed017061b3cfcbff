"""One life of the service: the parts of the daemon, without its threads and sockets."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from insitu.stream.inlet import Inlet
from insitu.stream.log.errors import LogFailed
from insitu.stream.log.stream_log import StreamLog
from insitu.stream.logged_inlet import LoggedInlet
from insitu.stream.stamp import Position
from insitu.wire.codec import encode
from insitu.wire.messages import Ack, Message
from insitu_service.ingest.intake import Intake
from insitu_service.ingest.session import Session, Sessions
from insitu_service.ingest.turn import Turn
from insitu_service.learning.probe_inbox import ProbeInbox
from insitu_service.stream_log.syncer import LogSyncer
from simulated_disk import Crashed, SimulatedDisk
from simulation.composition import make_buffer, make_logged_inlet, make_reception
from simulation.learner import Record
from simulation.network import Frames, Network
from simulation.settings import Settings
from simulation.virtual_clock import Alarm, VirtualClock


@dataclass(frozen=True)
class Checkpoint:
    """Buffer and learner at one instant."""

    buffer: Mapping[str, Any]
    record: Record


class Service:
    """Ingest, learner and syncer, taking turns on one clock.

    Args:
        disk: of the stream log, where there is one.
        wall_clock: seconds since 1970, which may jump.
        on_ack: told of every ack that goes out.
        after_event: called after every message, turn, step and sync.

    Raises:
        Crashed, OperatorError: it dies, or gives up, while it reads the log.
    """

    def __init__(
        self,
        settings: Settings,
        network: Network,
        disk: SimulatedDisk,
        clock: VirtualClock,
        seed: int,
        checkpoint: Checkpoint | None,
        *,
        wall_clock: Callable[[], float],
        on_ack: Callable[[Session, Ack], None],
        after_event: Callable[[], None],
    ) -> None:
        self.settings = settings
        self.buffer = make_buffer(settings, clock, seed)
        self.record = Record()
        if checkpoint is not None:
            self.buffer.load_state_dict(checkpoint.buffer)
            self.record = checkpoint.record.copy()
        self.intake, self.probes = Intake(), ProbeInbox()
        self.sessions = Sessions(seed << 40 | int(clock.now * 1000) << 10)
        self.alive = True
        self.given_up = False
        self.steps = 0
        #: the service dies so many messages later, in the middle of a turn
        self.dies_after_messages: int | None = None
        self.stalled_until = self.learner_stalled_until = self.disk_stalled_until = 0.0
        self._network = network
        self._clock = clock
        self._wall_clock = wall_clock
        self._on_ack = on_ack
        self._after_event = after_event
        self._inbox: deque[tuple[bytes, Frames]] = deque()
        self._drain_text: str | None = None
        self._woken = False
        self._in_a_turn = False  # that had looked up when the drain began, as threads may
        self._turn_alarm = Alarm(clock, self._take_turn)
        self._step_alarm = Alarm(clock, self._step)
        self._sync_alarm = Alarm(clock, self._sync)
        self.log: StreamLog | None = None
        self.syncer: LogSyncer | None = None
        self.inlet = self._inlet(disk)
        reception = make_reception(settings, self.inlet, self.sessions, self.intake, self._send)
        self._turn = Turn(reception, self.inlet, clock.now)
        self.buffer.on_room = self.wake
        network.listen(self._receive)
        self._turn_alarm.within(0.0)
        self._step_alarm.within(settings.step_seconds)
        if self.syncer is not None:
            self._sync_alarm.within(settings.sync_seconds)

    def _inlet(self, disk: SimulatedDisk) -> Inlet:
        settings = self.settings
        if not settings.has_log:
            return Inlet(self.buffer, self.probes.take)
        inlet, self.syncer = make_logged_inlet(
            settings, self.buffer, self.probes.take, disk,
            wall_ns=lambda: int(self._wall_clock() * 1e9),
            on_appended=lambda: self._sync_alarm.within(settings.sync_seconds),
            on_synced=self.wake,
        )  # fmt: skip
        self.log = inlet.log
        inlet.recover()
        return inlet

    # what others look at

    @property
    def positions(self) -> dict[str, Position]:
        """How far every producer has come, as far as messages are answered."""
        inlet = self.inlet
        return inlet._positions if isinstance(inlet, LoggedInlet) else self.buffer.positions()

    @property
    def log_is_readable(self) -> bool:
        """A sync that failed may have forgotten what it should have written."""
        return self.log is None or not self.log.broken

    @property
    def dropped(self) -> int:
        """Rows that the buffer has dropped."""
        return self.buffer._scheduler.counters.dropped

    @property
    def fill(self) -> tuple[int, int, int, int]:
        """Received, drawn, unseen, dropped; what `snapshot` says takes long."""
        counters = self.buffer._scheduler.counters
        return counters.received, counters.drawn_first, self._unseen, counters.dropped

    @property
    def _unseen(self) -> int:
        return self.buffer._scheduler.unseen

    # what others do to it

    def wake(self) -> None:
        self._woken = True
        self._turn_alarm.within(self.settings.turn_seconds)

    def drain(self) -> None:
        """Take nothing new; the learner trains what is pending."""
        self._drain_text = "the service stops"
        self._in_a_turn = self.steps % 2 == 1
        self.buffer.end()
        self.wake()
        self._step_alarm.within(0.0)

    def checkpoint(self) -> Checkpoint:
        """As the recorder takes it: between two steps, probes that wait included."""
        self.record.take_in(self.probes.take_all())
        state = self.buffer.state_dict()
        state["rows"] = state["rows"].clone()
        return Checkpoint(state, self.record.copy())

    def die(self) -> None:
        self.alive = False
        for alarm in (self._turn_alarm, self._step_alarm, self._sync_alarm):
            alarm.off()
        self._network.server_dies()

    def sync_for_checkpoint(self) -> bool:
        """As `LogHooks.before_write`; False when no checkpoint may be written."""
        try:
            if self.syncer is not None:
                self.syncer.sync_or_raise()
        except Crashed:
            self._crashed()
            return False
        except LogFailed:
            return False
        self._after_event()
        return True

    def checkpoint_is_written(self, checkpoint: Checkpoint) -> None:
        """As `LogRetention`, where one checkpoint is kept."""
        if isinstance(self.inlet, LoggedInlet):
            self.inlet.release(checkpoint.buffer["log"]["record"])

    @property
    def exhausted(self) -> bool:
        """Everything that was accepted is trained, and no slot is reserved."""
        reserved = self.buffer._scheduler.counters.reserved
        return self.inlet.backlog_samples == 0 and self._unseen == 0 and reserved == 0

    @property
    def stopping(self) -> bool:
        return self._drain_text is not None

    # the ingest thread

    def _receive(self, identity: bytes, frames: Frames) -> None:
        self._inbox.append((identity, frames))
        self._turn_alarm.within(self.settings.turn_seconds)

    def _send(self, identity: bytes, message: Message) -> None:
        if isinstance(message, Ack):
            session = self.sessions.of(message.session, identity)
            if session is not None:
                self._on_ack(session, message)
        if not self._network.downward(identity, encode(message)):
            self.intake.unsent_messages += 1

    def _take_turn(self) -> None:
        now = self._clock.now
        if now < self.stalled_until:
            self._turn_alarm.within(self.stalled_until - now)
            return
        try:
            self._turn_now(now)
        except Crashed:
            self._crashed()
        except LogFailed:
            self.given_up = True  # the ingest thread ends, and with it the service
            self._after_event()

    def _crashed(self) -> None:
        """In the middle of writing."""
        self.die()
        self._after_event()

    def _turn_now(self, now: float) -> None:
        turn, inbox = self._turn, self._inbox
        turn.begin(now)
        if self._in_a_turn:
            self._in_a_turn = False
        elif self._woken:
            self._woken = False
            turn.look_up(self._drain_text)
        idle = not inbox
        for _ in range(min(len(inbox), self.settings.turn_messages)):
            identity, frames = inbox.popleft()
            if not turn.ignores(identity, now):
                turn.take(identity, frames, now)
            self._after_event()
            if self._dies_now():
                return
        turn.end(now, idle=idle)
        self._after_event()
        self._turn_alarm.within(self.settings.turn_seconds if inbox else turn.waits_seconds)
        if self._unseen or self.buffer.is_exhausted():
            self._step_alarm.within(self.settings.step_seconds)

    def _dies_now(self) -> bool:
        if self.dies_after_messages is None:
            return False
        self.dies_after_messages -= 1
        if self.dies_after_messages > 0:
            return False
        self._crashed()
        return True

    # the learner

    def _step(self) -> None:
        now = self._clock.now
        if now < max(self.learner_stalled_until, self.stalled_until):
            self._step_alarm.within(max(self.learner_stalled_until, self.stalled_until) - now)
            return
        self.record.take_in(self.probes.take_all())
        draw = self.buffer.draw(self.settings.batch_size, 0)
        if draw is not None:
            if draw.batch is not None:
                self.record.train(draw)
                self.steps += 1
            self.buffer.release(draw)
            self._step_alarm.within(self.settings.step_seconds)
        elif self.stopping and not self.buffer.is_ended and self.inlet.backlog_samples == 0:
            self.buffer.end()  # as the learner, when the stream was opened again in a drain
            self._step_alarm.within(self.settings.step_seconds)
        elif self.settings.free_pace and self._unseen:
            self._step_alarm.within(0.1)  # it lingers
        self._after_event()

    # the syncer

    def _sync(self) -> None:
        now = self._clock.now
        if now < max(self.disk_stalled_until, self.stalled_until):
            self._sync_alarm.within(max(self.disk_stalled_until, self.stalled_until) - now)
            return
        assert self.syncer is not None
        try:
            self.syncer.sync()
        except Crashed:
            self._crashed()
            return
        self._after_event()
        self._sync_alarm.within(1.0)
