"""The ingest thread: owns the ROUTER socket, and brings every message to its turn.

A turn: wait for messages or a wake-up, handle at most a few hundred messages, send the acks that
are owed. So acks are coalesced under load and immediate when there is none. What a turn does is
in `turn.py`; this file moves bytes.

ROUTER drops silently what it cannot send, unless told otherwise: MANDATORY, and every send is
NOBLOCK; a message that cannot go out is counted and the protocol repeats what matters.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial

import zmq

from insitu.stream.inlet import Inlet
from insitu.wire.codec import encode
from insitu.wire.messages import Message
from insitu_service.ingest.connection_watch import ConnectionWatch
from insitu_service.ingest.doorbell import Doorbell
from insitu_service.ingest.gatekeeper import Gatekeeper
from insitu_service.ingest.intake import Intake
from insitu_service.ingest.reception import Reception
from insitu_service.ingest.session import NOWHERE, Origin
from insitu_service.ingest.turn import Turn
from insitu_service.supervision.beat import Beat

_log = logging.getLogger("insitu.ingest")

#: most messages of one turn, and how long it takes them in, so that acks and wake-ups never wait
#: for long: not even for somebody who sends all the time
_TURN_MESSAGES = 256
_TURN_SECONDS = 0.001
#: frames of a message that are looked at; a legal one has two
_MOST_FRAMES = 4
#: frames above this are not copied out of ZeroMQ's memory before they are handled
_COPY_BELOW_BYTES = 4096


class Outbox:
    """Sends messages to producers; used by the ingest thread only."""

    def __init__(self, router: zmq.Socket[bytes], intake: Intake) -> None:
        self._router = router
        self._intake = intake

    def send(self, identity: bytes, message: Message) -> None:
        """Send, or count that it was not possible: a peer that is gone, or one that never reads."""
        try:
            self._router.send_multipart([identity, *encode(message)], zmq.NOBLOCK)
        except zmq.ZMQError:
            self._intake.unsent_messages += 1


class Ingest:
    """Runs the reception on a socket until it is stopped.

    Args:
        router: bound; used and closed by the thread that calls `run`.
        reception: handles the messages.
        inlet: what they go through; tended between them.
        watch: of the connections below the messages.
        gatekeeper: says who may connect; used and closed by the same thread.
        beat: called at every turn.
    """

    def __init__(
        self,
        router: zmq.Socket[bytes],
        reception: Reception,
        inlet: Inlet,
        watch: ConnectionWatch,
        gatekeeper: Gatekeeper,
        endpoints: Sequence[str],
        *,
        beat: Beat,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.failure: BaseException | None = None
        #: what it is bound to, with the ports that were chosen
        self.endpoints = endpoints
        self._router = router
        self._turn = Turn(reception, inlet, clock())
        self._watch = watch
        self._gatekeeper = gatekeeper
        self.beat = beat
        self._clock = clock
        self._bell = Doorbell()
        self._stopping = False
        self._drain_text: str | None = None
        self._recheck = False

    # called by other threads

    def wake(self) -> None:
        """There is room in the buffer again, or something else to look at."""
        self._bell.ring()

    def drain(self, text: str) -> None:
        """Take nothing new from now on."""
        self._drain_text = text
        self.wake()

    def recheck(self) -> None:
        """The allow-list has changed: look at the sessions again."""
        self._recheck = True
        self.wake()

    def stop(self) -> None:
        """End `run`."""
        self._stopping = True
        self.wake()

    # the thread

    def run(self) -> None:
        self._turn.begin(self._clock())
        poller = zmq.Poller()
        poller.register(self._router, zmq.POLLIN)
        poller.register(self._watch.socket, zmq.POLLIN)
        poller.register(self._gatekeeper.socket, zmq.POLLIN)
        poller.register(self._bell.fileno(), zmq.POLLIN)
        try:
            while not self._stopping:
                seconds = min(self._turn.waits_seconds, self._watch.waits_seconds)
                self._take_turn(dict(poller.poll(int(seconds * 1000))))
        except Exception as error:
            self.failure = error
            _log.exception("the ingest thread failed")
        finally:
            self._watch.close()
            self._gatekeeper.close()
            self._router.close()
            self._bell.close()

    def _take_turn(self, events: dict[object, int]) -> None:
        self.beat()
        now = self._clock()
        self._turn.begin(now)
        if self._gatekeeper.socket in events:
            self._gatekeeper.answer()
        if self._bell.fileno() in events:
            self._bell.answer()
            self._look_at_keys()
            self._turn.look_up(self._drain_text)
        if self._router in events:
            for _ in range(_TURN_MESSAGES):
                if not self._receive(now) or self._clock() - now > _TURN_SECONDS:
                    break
        if self._watch.socket in events:
            self._watch.look(now)
        self._watch.cut(now)
        self._turn.end(now, idle=self._router not in events)

    def _look_at_keys(self) -> None:
        if self._recheck:
            self._recheck = False
            self._turn.reception.lobby.recheck()

    def _receive(self, now: float) -> bool:
        """Handle one message; False when none is there."""
        router = self._router
        try:
            identity = router.recv(zmq.NOBLOCK)
        except zmq.Again:
            return False
        if self._turn.ignores(identity, now):
            while router.getsockopt(zmq.RCVMORE):
                router.recv(copy=False)
            return True
        frames: list[bytes | memoryview] = []
        first = None
        while router.getsockopt(zmq.RCVMORE):
            frame = router.recv(copy=False)
            if len(frames) >= _MOST_FRAMES:
                continue  # enough to see that it is no message; the rest is let go of
            if first is None:
                first = frame
            size = len(frame)
            frames.append(frame.buffer if size > _COPY_BELOW_BYTES else frame.bytes)
        origin = partial(_origin, first) if first is not None else lambda: NOWHERE
        self._turn.take(identity, frames, now, origin)
        return True


def _origin(frame: zmq.Frame) -> Origin:
    """The connection that a frame came by."""
    try:
        return Origin(int(frame.get(zmq.SRCFD)), str(frame.get("User-Id")))
    except zmq.ZMQError:
        return NOWHERE
