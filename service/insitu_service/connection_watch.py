"""Watches connections from below: those that broke off, and those that never spoke ZeroMQ.

A frame beyond the limit of the socket, a killed producer, a browser at the wrong port: none of
these ever becomes a message. ZeroMQ cuts or loses the connection, and only the monitor of the
socket says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import zmq
from zmq.utils.monitor import parse_monitor_message

from insitu_service.endpoints import MAX_MESSAGE_BYTES
from insitu_service.intake import Intake

_log = logging.getLogger("insitu.ingest")

_HANDSHAKE_FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)


class ConnectionWatch:
    """Counts and tells of connections that ended in a way they should not.

    Args:
        router: its socket; used by the same thread only.
        intake: where they are counted.
        who: the producer whose session came by this connection, by file descriptor; None for
            none (it has said BYE, or never HELLO).
    """

    def __init__(
        self, router: zmq.Socket[bytes], intake: Intake, who: Callable[[int], str | None]
    ) -> None:
        self.socket: zmq.Socket[bytes] = router.get_monitor_socket(
            _HANDSHAKE_FAILED | zmq.EVENT_DISCONNECTED
        )
        self._router = router
        self._intake = intake
        self._who = who

    def look(self) -> None:
        """Take in what has happened since the last look."""
        while True:
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            event = parse_monitor_message(frames)
            if int(event["event"]) & _HANDSHAKE_FAILED:
                self._stranger()
            else:
                self._disconnected(int(event["value"]))

    def close(self) -> None:
        self._router.disable_monitor()

    def _stranger(self) -> None:
        self._intake.broken_connections["handshake"] += 1
        _log.warning(
            "somebody connected who does not speak ZeroMQ (or encrypts): is it a browser or a "
            "scanner at the stream's port?",
            extra={"key": "handshake"},
        )

    def _disconnected(self, descriptor: int) -> None:
        producer_id = self._who(descriptor)
        if producer_id is None:
            self._intake.broken_connections["no_session"] += 1
            return
        self._intake.broken_connections["no_bye"] += 1
        _log.warning(
            "the connection of producer %r ended without BYE: it died, the network broke, or it "
            "sent a frame of more than %d bytes; if it stays away its session expires",
            producer_id,
            MAX_MESSAGE_BYTES,
            extra={"key": "no_bye"},
        )
