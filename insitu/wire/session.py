"""The life of a producer's connection as a state machine: greeting, heartbeat, loss, the end.

    LOST      -> GREETING   HELLO was sent
    GREETING  -> OPEN       WELCOME
              -> LOST       REFUSED with retry, or silence
              -> REFUSED    REFUSED for good, and no other service is left
    OPEN      -> GREETING   NOSESSION: HELLO again on the same connection
              -> LOST       silence for 5 heartbeats: a new connection
    any       -> LOST       another service is turned to (`Failover`)
    any       -> FENCED     a newer producer with the same id is there
    any       -> CLOSED     the end

No I/O and no clock: the time is passed in, in seconds of a monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from insitu.wire.began import Began
from insitu.wire.capabilities import RESUMES, ROW_COUNTS
from insitu.wire.checksum import capabilities
from insitu.wire.failover import Failover, service_name
from insitu.wire.messages import (
    PROTOCOL_VERSION,
    Ack,
    Bye,
    Drain,
    Fenced,
    Hello,
    Message,
    Nack,
    NoSession,
    Ping,
    Pong,
    Refused,
    Welcome,
)
from insitu.wire.sender import SendWindow
from insitu.wire.values import Cursor

SILENT_HEARTBEATS = 5
GREETING_SECONDS = 5.0
RETRY_SECONDS = (0.25, 5.0)
#: between an answer and the next PING while somebody waits for a position to move
HURRY_SECONDS = 0.02


class SessionState(StrEnum):
    """Where a producer's connection stands."""

    LOST = "lost"
    GREETING = "greeting"
    OPEN = "open"
    REFUSED = "refused"
    FENCED = "fenced"
    CLOSED = "closed"


#: asked at every push, so a tuple that is made once
_OVER = (SessionState.REFUSED, SessionState.FENCED, SessionState.CLOSED)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the producer is; the fields of HELLO that never change."""

    producer_id: str
    epoch: int
    stream: str
    host_id: str = ""
    boot_id: str = ""
    token: str = field(default="", repr=False)


class ProducerSession:
    """What to send besides DATA, and what to make of every answer.

    Args:
        window: where the data is; this object tells it of acks, credit and sessions.
        identity: who we are.
        failover: which service is talked to; by default there is one.
        resumes: the rows that are pushed go on right behind `last_cursor`.
    """

    def __init__(
        self,
        window: SendWindow,
        identity: Identity,
        failover: Failover | None = None,
        *,
        resumes: bool = False,
    ) -> None:
        self.window = window
        self.identity = identity
        self.failover = failover or Failover()
        #: rows that were sent to a service that was left, which may have taken them
        self.uncertain_rows = 0
        self.state = SessionState.LOST
        self.welcome: Welcome | None = None
        self.last_cursor: Cursor = None
        #: of what comes behind `last_cursor`, how many rows were settled or are in the window;
        #: None until it is known, or when the service does not tell
        self.rows_behind_cursor: int | None = None
        self.sessions = 0
        self.last_error = ""
        self.draining = ""
        self.ended = False
        self.blocked_seconds = 0.0
        #: how many wait for `durable` or `trained` to move, which is told when it is asked for
        self.waiting = 0
        self._resumes = resumes
        self._began: Began | None = None
        self._greeted_seq = 1
        self._heard_at = 0.0
        self._pinged_at = 0.0
        self._answered_at = 0.0
        self._hello_at = 0.0
        self._retry_seconds = RETRY_SECONDS[0]
        self._asked_credit = False
        self._barrier: tuple[int, int] | None = None

    @property
    def over(self) -> bool:
        """No session will ever come again."""
        if self.state not in _OVER:
            return False
        return self.state is not SessionState.REFUSED or not self.failover.has_choice

    # -- connecting ------------------------------------------------------------------------

    def wants_hello(self, now: float) -> bool:
        return self.state is SessionState.LOST and now >= self._hello_at

    def hello(self, now: float) -> Hello:
        """The HELLO to send now."""
        seq, row = self.window.first_available
        schema, who = self.window.schema, self.identity
        self.window.suspend()
        self.state = SessionState.GREETING
        self._heard_at = now
        self._barrier = None
        self._greeted_seq = seq
        return Hello(
            PROTOCOL_VERSION, who.producer_id, who.epoch, who.stream, schema, schema.crc32,
            (*capabilities(), *self._additions()), who.host_id, who.boot_id, who.token, seq, row,
        )  # fmt: skip

    def _additions(self) -> tuple[str, ...]:
        """Beyond the first release. That it resumes is said before its rows have numbers only."""
        begins = self._resumes and self.welcome is None and not self.window.next_row
        if begins:
            return ROW_COUNTS, RESUMES
        return (ROW_COUNTS, *(self._began.capabilities() if self._began is not None else ()))

    def lost(self) -> None:
        """The connection is gone; a new one is made and greeted at once."""
        if self.over:
            return
        self.window.suspend()
        self.state = SessionState.LOST
        self._hello_at = 0.0

    def turns(self, now: float) -> bool:
        """Turn to another service if it is time; then the connection is to be replaced."""
        if self.state in (SessionState.FENCED, SessionState.CLOSED):
            return False
        is_open = self.state is SessionState.OPEN
        if is_open and not self.draining:
            self.failover.well()
            return False
        if not self.failover.leaves(now, at_once=is_open and not self.window.in_flight_rows):
            return False
        self.uncertain_rows += self.window.in_flight_rows
        self.failover.turn(now)
        self.window.use_service(service_name(self.failover.index))
        self.state = SessionState.LOST
        if not self.failover.was_turned_away:
            self._hello_at = now
        return True

    def silent(self, now: float) -> bool:
        """Nothing was heard for so long that the connection should be replaced."""
        if self.state is SessionState.GREETING:
            return now - self._heard_at > GREETING_SECONDS
        if self.state is SessionState.OPEN:
            return now - self._heard_at > SILENT_HEARTBEATS * self.heartbeat_seconds
        return False

    @property
    def heartbeat_seconds(self) -> float:
        """As the service asked for, within reason."""
        asked = self.welcome.heartbeat_seconds if self.welcome is not None else 1.0
        return min(max(asked, 0.05), 60.0)

    # -- while open --------------------------------------------------------------------------

    def ping(self, now: float) -> Ping | None:
        """The PING that is due now: at each heartbeat, and at once when credit has run out.

        While somebody waits for a position, one soon after each answer.
        """
        if self.state is not SessionState.OPEN:
            return None
        needed = self.window.needed_bytes()
        asks = needed > 0 and not self._asked_credit
        self._asked_credit = needed > 0
        if now < self._ping_at and not asks:
            return None
        self._pinged_at = now
        stamp_ns = int(now * 1e9)
        if self._barrier is None:
            self._barrier = stamp_ns, self.window.transmitted_seq
        return Ping(
            self._session_number, stamp_ns, needed, self.window.next_row,
            self.window.books.dropped_rows_in_all, self.blocked_seconds,
        )  # fmt: skip

    @property
    def _ping_at(self) -> float:
        if self.waiting and self._answered_at >= self._pinged_at:
            return self._answered_at + HURRY_SECONDS
        return self._pinged_at + self.heartbeat_seconds

    def bye(self) -> Bye:
        """The end of the stream."""
        return Bye(
            self._session_number, self.window.sent_seq, self.window.next_row,
            self.window.books.dropped_rows_in_all, self.blocked_seconds,
        )  # fmt: skip

    def due_seconds(self, now: float) -> float:
        """How long nothing will happen here unless a message comes."""
        if self.state is SessionState.LOST:
            return max(0.0, self._hello_at - now)
        if self.state is SessionState.GREETING:
            return max(0.0, self._heard_at + GREETING_SECONDS - now)
        return max(0.0, self._ping_at - now)

    @property
    def _session_number(self) -> int:
        return self.welcome.session if self.welcome is not None else 0

    # -- answers -----------------------------------------------------------------------------

    def receive(self, message: Message, now: float) -> bool:
        """Take in what the service says; True when a HELLO must be sent at once."""
        if self.over:
            return False
        match message:
            case Welcome():
                self._open(message, now)
            case Refused():
                self._refused(message, now)
            case Fenced():
                self._fenced(message)
            case _ if getattr(message, "session", None) != self._session_number:
                return False
            case _ if self.state is SessionState.OPEN:
                self._heard_at = now
                return self._receive_open(message, now)
        return False

    def _receive_open(self, message: Message, now: float) -> bool:
        match message:
            case Ack():
                self.window.acknowledge(message)
            case Nack():
                self.window.refuse(message)
                self.last_error = f"{message.code}: {message.text}"
                if message.resend:
                    self._barrier = None
            case Pong(stamp_ns=stamp_ns):
                self._answered_at = now
                if self._barrier is not None and stamp_ns >= self._barrier[0]:
                    self.window.handled(self._barrier[1])
                    self._barrier = None
            case Drain(text=text):
                self.draining = text or "the service is draining"
                self.window.draining = True
            case Bye():
                self.ended = True
            case NoSession():
                return True
        return False

    def _open(self, welcome: Welcome, now: float) -> None:
        if self.state is not SessionState.GREETING or welcome.next_seq < self._greeted_seq:
            return  # the second is of an earlier session, late: no service goes behind a HELLO
        self.window.open(welcome)
        if self.welcome is None:
            self._go_on_from(welcome)
        self.welcome = welcome
        self.state = SessionState.OPEN
        self.sessions += 1
        self.draining = ""
        self._retry_seconds = RETRY_SECONDS[0]
        self._asked_credit = False
        self._heard_at = self._pinged_at = self._answered_at = now

    def _go_on_from(self, welcome: Welcome) -> None:
        """The first session says how far former runs have come, or this one's former process."""
        window = self.window
        self.last_cursor = welcome.last_cursor
        if welcome.next_row is None or welcome.rows_behind_cursor is None:
            return
        if self._resumes and not window.next_row:
            window.begin_at(welcome.next_row)
            self._began = Began(welcome.last_cursor)
        cursor_row = welcome.next_row - welcome.rows_behind_cursor
        self.rows_behind_cursor = max(0, window.next_row - cursor_row)

    def _refused(self, refused: Refused, now: float) -> None:
        if self.state is not SessionState.GREETING:
            return
        self.last_error = f"the service refuses the stream ({refused.code}): {refused.text}"
        self.failover.refused(for_good=not refused.retry)
        self.state = SessionState.LOST if refused.retry else SessionState.REFUSED
        self._hello_at = now + self._retry_seconds
        self._retry_seconds = min(2 * self._retry_seconds, RETRY_SECONDS[1])

    def _fenced(self, fenced: Fenced) -> None:
        if fenced.epoch <= self.identity.epoch:
            return
        self.last_error = f"a newer producer took over: {fenced.text}"
        self.window.suspend()
        self.state = SessionState.FENCED

    def close(self) -> None:
        self.window.suspend()
        if not self.over:
            self.state = SessionState.CLOSED
