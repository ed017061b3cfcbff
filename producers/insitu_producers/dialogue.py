"""What a producer's connection sends next, how long it waits, and when it gives up on a socket.

A state machine above `ProducerSession` and `SendWindow` and below the thread that owns the
socket: no I/O, no clock, no lock. The thread (`connection.py`) moves the bytes; the simulation of
the tests drives the same object in virtual time.
"""

from __future__ import annotations

from collections.abc import Callable

from insitu.wire.batches import Outgoing
from insitu.wire.messages import Hello, Message
from insitu.wire.session import ProducerSession, SessionState

#: the longest sleep, and how long a message that the socket did not take waits for it
IDLE_SECONDS = 1.0


class Dialogue:
    """HELLO before everything else, then BYE if it is time, PING if it is due, and data.

    Args:
        session: the state machine; with its window it is used under the caller's lock.
    """

    def __init__(self, session: ProducerSession) -> None:
        #: a push must wake the thread; not so while it waits for credit: the ack will
        self.wants_waking = False
        self.stop_at: float | None = None
        self._session = session
        self._window = session.window
        self._bye_sent = False

    def next_message(self, now: float, writable: Callable[[], bool]) -> Message | Outgoing | None:
        """What is due now; None when there is nothing to send.

        Args:
            writable: whether the socket takes a message now. A HELLO tells what is still here,
                so it is made when it can go out at once.
        """
        due = self._control(now, writable) or self._window.next_fragment()
        if due is None:
            self.wants_waking = self._window.needed_bytes() == 0
        elif isinstance(due, Outgoing):
            self.wants_waking = False
        return due

    def _control(self, now: float, writable: Callable[[], bool]) -> Message | None:
        session = self._session
        if session.wants_hello(now):
            return session.hello(now) if writable() else None
        if self.stop_at is None or self._bye_sent:
            return session.ping(now)
        if session.state is not SessionState.OPEN:
            return None
        self._bye_sent = True
        return session.bye()

    def receive(self, message: Message, now: float) -> Hello | None:
        """Take an answer in; gives the HELLO that must go out instead of what waits to be sent."""
        return self._session.hello(now) if self._session.receive(message, now) else None

    def gives_up(self, now: float) -> bool:
        """Nothing was heard for too long, or another service is next: a new socket is needed."""
        if self._session.silent(now):
            self._session.lost()
            self._session.turns(now)
            return True
        return self.stop_at is None and self._session.turns(now)

    def waits_to_send(self, now: float) -> bool:
        """Whether a HELLO waits for the socket."""
        return self._session.wants_hello(now)

    def waits_seconds(self, now: float, *, waits_to_send: bool) -> float:
        """How long to sleep unless something comes, or the socket takes what waits."""
        seconds = IDLE_SECONDS
        if not waits_to_send and not self._session.over:
            seconds = min(self._session.due_seconds(now), IDLE_SECONDS)
        if self.stop_at is not None:
            seconds = min(seconds, max(0.0, self.stop_at - now))
        return seconds

    def finished(self, now: float) -> bool:
        """The end: BYE was answered, there is nobody to say it to, or the time is up."""
        if self.stop_at is None:
            return False
        session = self._session
        waits = session.state is SessionState.OPEN and not session.ended
        return not waits or now >= self.stop_at
