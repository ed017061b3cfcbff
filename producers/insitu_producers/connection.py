"""The thread that owns a producer's socket: it sends what the window has and reads the answers.

Everything that is decided is decided by `Dialogue`, `ProducerSession` and `SendWindow`; this file
moves bytes, waits, and replaces the socket when it is told to. The lock of the window is held for
decisions only, never while bytes are hashed, copied or sent.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Sequence

import zmq

from insitu.errors import ProducerError
from insitu.wire.batches import Outgoing
from insitu.wire.codec import decode, encode
from insitu.wire.messages import WireError
from insitu.wire.session import ProducerSession, SessionState
from insitu.wire.values import Payload
from insitu_producers.credentials import Credentials
from insitu_producers.dialogue import Dialogue
from insitu_producers.handshake import Fault, HandshakeWatch

logger = logging.getLogger("insitu.producer")

#: From this size on it is cheaper to let the socket read the window than to copy.
ZERO_COPY_BYTES = 64 << 10
#: Messages that wait in the socket. Few, so that small pushes merge in the window meanwhile and
#: a resend does not queue behind much that will be ignored.
SEND_HIGH_WATER_MARK = 16
BYE_SECONDS = 1.0
_SLOW_START_SECONDS = 2.0
#: a socket whose key was refused is replaced after so long
_REFUSED_SECONDS = 2.0


class Waker:
    """Wakes a thread that sleeps in poll, from any other thread."""

    def __init__(self) -> None:
        self.reader, self._writer = os.pipe()
        os.set_blocking(self.reader, False)
        os.set_blocking(self._writer, False)

    def wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._writer, b"\0")

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self.reader, 4096)

    def close(self) -> None:
        os.close(self.reader)
        os.close(self._writer)


class Connection:
    """One DEALER socket after another to the service that is in use, served by one thread.

    Args:
        endpoints: of every service, such as `tcp://127.0.0.1:5555` or `ipc:///run/insitu.sock`.
        session: the state machine; used under `changed` only.
        changed: the lock of window and session; notified when room or state changes.
        credentials: what the socket proves itself with.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        session: ProducerSession,
        changed: threading.Condition,
        credentials: Credentials,
    ) -> None:
        self.garbage_messages = 0
        self.failure: BaseException | None = None
        self.dialogue = Dialogue(session)
        self._endpoints = endpoints
        self._session = session
        self._changed = changed
        self._credentials = credentials
        self._context = zmq.Context(io_threads=1)
        try:
            self._socket, self._handshakes = self._connect()
        except zmq.ZMQError as error:
            self._context.term()
            raise ProducerError(
                f"endpoint {self.endpoint!r} cannot be used: {error}",
                allowed="tcp://HOST:PORT or ipc://PATH",
            ) from None
        self._waker = Waker()
        self._refused_at: float | None = None
        self._told_fault = ""
        self._pending: list[Payload] | None = None
        self._was_open = False
        self._told_absent = False
        self._started_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="insitu-producer", daemon=True)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        """Of the service that is in use."""
        return self._endpoints[self._session.failover.index]

    # -- called by other threads -------------------------------------------------------------

    def wake(self) -> None:
        """There is something new to send."""
        self._waker.wake()

    def close(self, timeout_seconds: float) -> None:
        """Say BYE, wait for its echo for at most this long, and end the thread."""
        with self._changed:
            self.dialogue.stop_at = time.monotonic() + max(0.0, timeout_seconds)
        self._waker.wake()
        self._thread.join()
        self._waker.close()

    # -- the thread --------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._finished():
                self._send_all()
                self._sleep()
                self._receive_all()
                self._watch()
        except BaseException as error:
            self.failure = error
            logger.exception("the producer's I/O thread failed; please report this")
        finally:
            self._handshakes.close()
            self._socket.close(linger=0)
            self._context.term()
            with self._changed:
                self._session.close()
                self._changed.notify_all()

    def _finished(self) -> bool:
        if self.dialogue.stop_at is None:
            return False
        with self._changed:
            return self.dialogue.finished(time.monotonic())

    def _connect(self) -> tuple[zmq.Socket[bytes], HandshakeWatch]:
        """A socket that connects, and who looks at its handshakes from the first one on."""
        options = {
            zmq.LINGER: 0,
            zmq.IMMEDIATE: 1,
            zmq.SNDHWM: SEND_HIGH_WATER_MARK,
            zmq.RCVHWM: 1000,
            zmq.RECONNECT_IVL: 100,
            zmq.RECONNECT_IVL_MAX: 2000,
            zmq.MAXMSGSIZE: 1 << 20,
        }
        socket = self._context.socket(zmq.DEALER)
        handshakes = HandshakeWatch(socket)
        try:
            for option, value in options.items():
                socket.setsockopt(option, value)
            self._credentials.arm(socket, self.endpoint)
            socket.connect(self.endpoint)
        except zmq.ZMQError:
            handshakes.close()
            socket.close(linger=0)
            raise
        return socket, handshakes

    def _replace_socket(self) -> None:
        self._handshakes.close()
        self._socket.close(linger=0)
        self._socket, self._handshakes = self._connect()
        self._refused_at = None
        self._pending = None

    # -- sending -----------------------------------------------------------------------------

    def _send_all(self) -> None:
        """Send until there is nothing to send or the socket takes no more."""
        while True:
            frames = self._pending or self._next_frames()
            if frames is None:
                return
            try:
                self._send(frames)
            except zmq.Again:
                self._pending = frames
                return
            self._pending = None

    def _send(self, frames: list[Payload]) -> None:
        if len(frames) == 1:
            self._socket.send(frames[0], zmq.NOBLOCK)
            return
        self._socket.send(frames[0], zmq.NOBLOCK | zmq.SNDMORE)
        payload = frames[1]
        self._socket.send(payload, zmq.NOBLOCK, copy=len(payload) < ZERO_COPY_BYTES)

    def _next_frames(self) -> list[Payload] | None:
        with self._changed:
            due = self.dialogue.next_message(time.monotonic(), self._is_writable)
        if due is None:
            return None
        return encode(due.data() if isinstance(due, Outgoing) else due)

    def _is_writable(self) -> bool:
        return bool(int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLOUT)

    # -- waiting and receiving -----------------------------------------------------------------

    def _sleep(self) -> None:
        now = time.monotonic()
        with self._changed:
            waits_to_send = self._pending is not None or self.dialogue.waits_to_send(now)
            seconds = self.dialogue.waits_seconds(now, waits_to_send=waits_to_send)
        events = zmq.POLLIN | (zmq.POLLOUT if waits_to_send else 0)
        ready = zmq.zmq_poll(
            [(self._socket, events), (self._waker.reader, zmq.POLLIN)],
            int(seconds * 1000) + 1,
        )
        if any(source == self._waker.reader for source, _ in ready):
            self._waker.clear()

    def _receive_all(self) -> None:
        while True:
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                message = decode(frames)
            except WireError as error:
                self._garbage(error)
                continue
            with self._changed:
                hello = self.dialogue.receive(message, time.monotonic())
                if hello is not None:
                    self._pending = encode(hello)
                self._tell()
                self._changed.notify_all()

    def _garbage(self, error: WireError) -> None:
        self.garbage_messages += 1
        with self._changed:
            self._session.last_error = error.message
        if self.garbage_messages == 1:
            logger.warning("%s answers with bytes that are no message: %s", self.endpoint, error)

    def _watch(self) -> None:
        now = time.monotonic()
        former, switches = self.endpoint, self._session.failover.switches
        with self._changed:
            silent = self.dialogue.gives_up(now)
            if silent:
                self._changed.notify_all()
            self._tell()
        failover = self._session.failover
        if failover.switches > switches and not failover.tried_all:  # once, not round and round
            self._tell_turned(former)
        fault = self._handshakes.fault()
        if fault is not None:
            self._handshake_failed(fault, now)
        refused = self._refused_at is not None and now - self._refused_at > _REFUSED_SECONDS
        if silent or refused:
            self._replace_socket()
        if not self._was_open and not self._told_absent:
            absent = self._session.sessions == 0 and not self._session.over
            if absent and now - self._started_at > _SLOW_START_SECONDS:
                self._told_absent = True
                logger.warning("no service at %s yet; going on", self.endpoint)

    def _tell_turned(self, former: str) -> None:
        session = self._session
        logger.warning(
            "%s does not serve us (%s); turning to %s; so far %d rows may be at two services",
            former,
            session.last_error or "it is silent",
            self.endpoint,
            session.uncertain_rows,
        )

    def _handshake_failed(self, fault: Fault, now: float) -> None:
        """Keep the reason for whoever waits, and say it once; the keys may be mended meanwhile."""
        with self._changed:
            self._session.last_error = fault.text
        if fault.is_final and self._refused_at is None:
            self._refused_at = now
        if fault.text != self._told_fault:
            self._told_fault = fault.text
            logger.warning("%s: %s; trying again", self.endpoint, fault.text)

    def _tell(self) -> None:
        """One log line when the service is lost or found, not one a message."""
        session = self._session
        is_open = session.state is SessionState.OPEN
        if self.dialogue.stop_at is not None:
            return
        if is_open and not self._was_open:
            again = " again" if session.sessions > 1 else ""
            logger.info("connected to %s%s", self.endpoint, again)
        elif self._was_open and not is_open:
            if session.over:
                logger.error("%s: %s", self.endpoint, session.last_error)
            else:
                logger.warning("lost the service at %s; going on", self.endpoint)
        elif session.over and not self._told_absent and session.sessions == 0:
            self._told_absent = True
            logger.error("%s: %s", self.endpoint, session.last_error)
        self._was_open = is_open
