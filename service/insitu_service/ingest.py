"""The ingest thread: owns the ROUTER socket, and gives every message to the reception.

A turn: wait for messages or a wake-up, handle at most a few hundred messages, send the acks that
are owed. So acks are coalesced under load and immediate when there is none.

ROUTER drops silently what it cannot send, unless told otherwise: MANDATORY, and every send is
NOBLOCK; a message that cannot go out is counted and the protocol repeats what matters.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Sequence

import zmq

from insitu.wire.codec import decode, encode
from insitu.wire.messages import Hello, Message, WireError
from insitu_service.beat import Beat
from insitu_service.connection_watch import ConnectionWatch
from insitu_service.intake import Intake
from insitu_service.reception import Reception

_log = logging.getLogger("insitu.ingest")

#: most messages of one turn, so that acks and wake-ups never wait for long
_TURN_MESSAGES = 256
_TURN_SECONDS = 1
#: who looked away for so long cannot say that others were silent
_STALL_SECONDS = 5.0
#: nothing comes for so long: time to acknowledge what has come
_PAUSE_MS = 1
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
        watch: of the connections below the messages.
        beat: called at every turn.
    """

    def __init__(
        self,
        router: zmq.Socket[bytes],
        reception: Reception,
        watch: ConnectionWatch,
        endpoints: Sequence[str],
        *,
        beat: Beat,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.failure: BaseException | None = None
        #: what it is bound to, with the ports that were chosen
        self.endpoints = endpoints
        self._router = router
        self._reception = reception
        self._watch = watch
        self.beat = beat
        self._clock = clock
        self._turned_at = clock()
        self._ours, self._theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._theirs.setblocking(False)
        self._woken = False
        self._stopping = False
        self._drain_text: str | None = None

    # called by other threads

    def wake(self) -> None:
        """There is room in the buffer again, or something else to look at."""
        if not self._woken:
            self._woken = True
            try:
                self._theirs.send(b"x")
            except OSError:
                return  # it is full of wake-ups already, or the thread has ended

    def drain(self, text: str) -> None:
        """Take nothing new from now on."""
        self._drain_text = text
        self.wake()

    def stop(self) -> None:
        """End `run`."""
        self._stopping = True
        self.wake()

    # the thread

    def run(self) -> None:
        self._turned_at = self._clock()
        poller = zmq.Poller()
        poller.register(self._router, zmq.POLLIN)
        poller.register(self._watch.socket, zmq.POLLIN)
        poller.register(self._ours.fileno(), zmq.POLLIN)
        try:
            while not self._stopping:
                owes = self._reception.acknowledger.owes
                wait_ms = _PAUSE_MS if owes else _TURN_SECONDS * 1000
                self._turn(dict(poller.poll(wait_ms)))
        except Exception as error:
            self.failure = error
            _log.exception("the ingest thread failed")
        finally:
            self._watch.close()
            self._router.close()
            self._ours.close()
            self._theirs.close()

    def _turn(self, events: dict[object, int]) -> None:
        self.beat()
        now, before = self._clock(), self._turned_at
        self._turned_at = now
        if now - before > _STALL_SECONDS:  # stopped, swapped out, or starved
            self._reception.lobby.excuse(now - before)
        if self._ours.fileno() in events:
            self._look_up()
        if self._router in events:
            for _ in range(_TURN_MESSAGES):
                if not self._receive(now):
                    break
        self._reception.acknowledger.settle(idle=self._router not in events)
        if self._watch.socket in events:
            self._watch.look()
        self._reception.lobby.expire(now)

    def _look_up(self) -> None:
        """Somebody woke us: read why before sleeping again."""
        self._woken = False
        self._ours.recv(4096)
        if self._drain_text is not None and not self._reception.lobby.draining:
            self._reception.lobby.drain(self._drain_text)
        if not self._reception.lobby.draining:
            self._reception.acknowledger.renew()

    def _receive(self, now: float) -> bool:
        """Handle one message; False when none is there."""
        router = self._router
        try:
            identity = router.recv(zmq.NOBLOCK)
        except zmq.Again:
            return False
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
        try:
            message = decode(frames)
        except WireError as error:
            self._reception.malformed(identity, error)
        else:
            descriptor = (
                _descriptor(first) if first is not None and isinstance(message, Hello) else -1
            )
            self._handle(identity, message, now, descriptor)
        return True

    def _handle(self, identity: bytes, message: Message, now: float, descriptor: int) -> None:
        """A fault of ours in one message costs one session, not the service."""
        try:
            self._reception.handle(identity, message, now, descriptor)
        except Exception:
            self._reception.failed(identity, message)


def _descriptor(frame: zmq.Frame) -> int:
    """File descriptor of the connection that a frame came by; -1 where it has none."""
    try:
        return int(frame.get(zmq.SRCFD))
    except zmq.ZMQError:
        return -1
