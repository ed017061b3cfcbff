"""One life of a producer: the window and the dialogue of the client, without thread and socket."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from random import Random

from insitu.wire.batches import Label, Outgoing, Span
from insitu.wire.codec import decode, encode
from insitu.wire.messages import Message
from insitu.wire.sender import SendWindow
from insitu.wire.session import Identity, ProducerSession
from insitu.wire.values import Payload
from insitu.wire.when_full import when_full
from insitu_producers.dialogue import Dialogue
from simulation.course import Course, Part
from simulation.life import Life
from simulation.network import Network, Socket
from simulation.samples import SCHEMA, write
from simulation.surviving import Killed, WindowStore
from simulation.virtual_clock import Alarm, VirtualClock

#: as `insitu_producers.connection.BYE_SECONDS` and `insitu.batch.SampleFlag.EVALUATE`
_BYE_SECONDS = 1.0
_BLOCK_SECONDS = 30.0
_EVALUATE = 1


class Producer:
    """Pushes rows that know who they are, and does what the client's thread does.

    Args:
        life: where the books on its rows are kept.
        store: what outlives it; None when its window is in its own memory.
        course: what it makes, if that goes on where a former run was left.
        after_event: called after every push and every turn of the loop.
        killed: called when it dies in the middle of an operation.
    """

    def __init__(
        self,
        life: Life,
        network: Network,
        clock: VirtualClock,
        random: Random,
        *,
        window_bytes: int,
        store: WindowStore | None,
        course: Course | None = None,
        policy: str,
        after_event: Callable[[], None],
        killed: Callable[[], None],
    ) -> None:
        self.life = life
        self.store = store
        self.window = SendWindow(SCHEMA, window_bytes) if store is None else store.window()
        self.course = course
        self.session = ProducerSession(
            self.window, Identity(life.producer_id, life.epoch, "s"), resumes=course is not None
        )
        self.dialogue = Dialogue(self.session)
        self.policy = when_full(policy)
        self.alive = True
        self.stalled_until = 0.0
        self._network = network
        self._clock = clock
        self._random = random
        self._after_event = after_event
        self._killed = killed
        self._pending: list[Payload] | None = None
        self._awaits: tuple[int, str, bool] | None = None  # a push before a run has begun
        self._parts: deque[Part] = deque()  # of a push; the first waits for room
        self._waits_until: float | None = None
        self._alarm = Alarm(clock, self._run)
        self.socket = Socket(network, self._readable)
        self._alarm.within(0.0)

    @property
    def busy(self) -> bool:
        """A push waits for room."""
        return bool(self._parts)

    @property
    def clear(self) -> bool:
        return not self.busy and self.window.books.pending_rows == 0

    # the application

    def push(self, rows: int, task: str, *, evaluate: bool) -> None:
        if not self.alive or self.busy or self.session.over:
            return
        if self.course is not None and self.dialogue.stop_at is not None:
            return  # closed, with the rest of a push perhaps
        if self.course is not None and not self.course.begin(self.session, self.life):
            self._awaits = rows, task, evaluate
            return
        self._parts.extend(self._cut(rows, Label(task, _EVALUATE if evaluate else 0)))
        try:
            self._push()
        except Killed:
            self._killed()
        self._after_event()

    def _begin(self, course: Course) -> None:
        """Push what has waited for the service to say where to go on."""
        if course.begin(self.session, self.life) and self._awaits is not None:
            awaits, self._awaits = self._awaits, None
            self.push(awaits[0], awaits[1], evaluate=awaits[2])

    def _cut(self, rows: int, label: Label) -> Iterable[Part]:
        most = max(1, self.window.pool.capacity_rows // 2)
        if self.course is not None:
            return self.course.parts(rows, label, most, self.life)
        return [Part(min(rows, most), label)]

    def _push(self) -> None:
        """The parts of a push, each as it finds room."""
        while self._parts:
            part = self._parts[0]
            self.life.begin_push(self.window)
            spans = self.policy.reserve(self.window, part.rows)
            if spans is None and self.policy.waits:
                if self._waits_until is None:
                    self._waits_until = self._clock.now + _BLOCK_SECONDS
                if self._clock.now < self._waits_until:
                    return
            self._waits_until = None
            self._parts.popleft()
            if spans is None:
                self.window.drop_push(self.policy.reason, part.rows)
            else:
                self._commit(spans, part)
            self.life.end_push(self.window)
            wake, self.dialogue.wants_waking = self.dialogue.wants_waking, False
            if wake:
                self._alarm.within(0.0)

    def _commit(self, spans: list[Span], part: Part) -> None:
        first, cursor = part.first_row, part.cursor
        if first is None:
            first = self.window.next_row
            cursor = first + part.rows
        write(spans, self.life.number, first, poisons=self.life.poisons)
        self.window.commit(
            spans, part.label, produced_at_ns=int(self._clock.now * 1e9), cursor=cursor
        )

    def _try_again(self) -> None:
        if self._parts and not self.session.over:
            self._push()

    def stop(self) -> None:
        """What `close` does once `flush` has had its time: drop what was not sent, say BYE."""
        self._parts.clear()
        self._awaits = None
        if self.store is not None:
            self.store.dies_after_writes = None
        self.life.begin_push(self.window)
        while self.window.drop_oldest_unsent("closed"):
            pass
        self.life.end_push(self.window)
        self.dialogue.stop_at = self._clock.now + _BYE_SECONDS
        self._alarm.within(0.0)

    def kill(self) -> None:
        """Gone, with everything that it had in memory."""
        self.alive = False
        self._alarm.off()
        self.socket.close(arrives_late=self._random.random() < 0.5)

    # the thread

    def _readable(self) -> None:
        if self.alive:
            self._alarm.within(self._random.choice((0.0, 0.0001, 0.002)))

    def _run(self) -> None:
        now = self._clock.now
        if now < self.stalled_until:
            self._alarm.within(self.stalled_until - now)
            return
        try:
            self._run_now(now)
        except Killed:
            self._killed()
        self._after_event()

    def _run_now(self, now: float) -> None:
        inbox, self.socket.inbox = self.socket.inbox, []
        for frames in inbox:
            hello = self.dialogue.receive(decode(frames), now)
            if hello is not None:
                self._pending = encode(hello)
        if self.course is not None:
            self._begin(self.course)
        if self.dialogue.gives_up(now):
            self._replace_socket()
        if self.dialogue.finished(now):
            self._finish()
        else:
            self._try_again()
            self._send_all(now)
            waits_to_send = self._pending is not None or self.dialogue.waits_to_send(now)
            wait = self.dialogue.waits_seconds(now, waits_to_send=waits_to_send)
            self._alarm.within(wait + 0.001)

    def _replace_socket(self) -> None:
        self.socket.close(arrives_late=self._random.random() < 0.5)
        self.socket = Socket(self._network, self._readable)
        self._pending = None

    def _send_all(self, now: float) -> None:
        while True:
            frames = self._pending or self._next_frames(now)
            if frames is None:
                return
            if not self.socket.send(frames):
                self._pending = frames
                return
            self._pending = None

    def _next_frames(self, now: float) -> list[Payload] | None:
        due: Message | Outgoing | None = self.dialogue.next_message(now, self.socket.writable)
        if due is None:
            return None
        return encode(due.data() if isinstance(due, Outgoing) else due)

    def _finish(self) -> None:
        self.alive = False
        self.socket.close(arrives_late=True)
        self.session.close()
        self.window.drop_all("closed")
