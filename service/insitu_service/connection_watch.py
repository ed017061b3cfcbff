"""Watches connections from below: those that broke off, and those that never spoke ZeroMQ.

A frame beyond the limit of the socket, a killed producer, a browser at the wrong port: none of
these ever becomes a message. ZeroMQ cuts or loses the connection, and only the monitor of the
socket says so.
"""

from __future__ import annotations

import logging

import zmq
from zmq.utils.monitor import parse_monitor_message

from insitu_service.endpoints import MAX_MESSAGE_BYTES
from insitu_service.intake import Intake
from insitu_service.session import Sessions

_log = logging.getLogger("insitu.ingest")


class ConnectionWatch:
    """Counts and tells of connections that ended in a way they should not.

    It only tells: a session stays open until its producer is back or has been silent for too long.

    Args:
        router: its socket; used by the same thread only.
        sessions: who is connected by which file descriptor.
        intake: where broken connections are counted.
    """

    def __init__(self, router: zmq.Socket[bytes], sessions: Sessions, intake: Intake) -> None:
        self.socket: zmq.Socket[bytes] = router.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._router = router
        self._sessions = sessions
        self._intake = intake

    def look(self) -> None:
        """Take in what has happened since the last look.

        After the messages of a turn, so that a BYE comes before the end of its connection.
        """
        while True:
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._disconnected(int(parse_monitor_message(frames)["value"]))

    def close(self) -> None:
        self._router.disable_monitor()

    def _disconnected(self, descriptor: int) -> None:
        if self._sessions.has_parted(descriptor):
            return
        sessions = self._sessions.at_descriptor(descriptor)
        for session in sessions:
            session.descriptor = -1  # the next connection may get the same number
            self._broken_off(session.producer_id)
        if not sessions:
            self._without_session()

    def _broken_off(self, producer_id: str) -> None:
        self._intake.broken_connections["no_bye"] += 1
        _log.warning(
            "the connection of producer %r ended without BYE: it died, the network broke, or it "
            "sent a frame of more than %d bytes; if it stays away its session expires",
            producer_id,
            MAX_MESSAGE_BYTES,
            extra={"key": f"no_bye {producer_id}"},
        )

    def _without_session(self) -> None:
        self._intake.broken_connections["no_session"] += 1
        _log.info(
            "a connection ended that had no session: its producer was refused, it does not speak "
            "ZeroMQ (a browser, a probe of the port), or it sent a frame of more than %d bytes",
            MAX_MESSAGE_BYTES,
            extra={"key": "no_session"},
        )
