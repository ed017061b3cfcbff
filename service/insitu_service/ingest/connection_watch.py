"""Watches connections from below: handshakes that fail, and connections that break off.

A frame beyond the limit of the socket, a killed producer, a wrong key, a browser at the wrong
port: none of these ever becomes a message. ZeroMQ cuts or loses the connection, and only the
monitor of the socket says so.
"""

from __future__ import annotations

import logging
import os

import zmq
from zmq.utils.monitor import parse_monitor_message

from insitu_service.ingest.intake import Intake
from insitu_service.ingest.session import Sessions
from insitu_service.security.strangers import Strangers, cut

_log = logging.getLogger("insitu.ingest")

_EVENTS = (
    zmq.EVENT_ACCEPTED
    | zmq.EVENT_ACCEPT_FAILED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)
#: told in one look at most: while no descriptor is free, ZeroMQ tells of it without end
_MOST_EVENTS = 1024
#: between two looks at how long connections are strangers, and how much they sent
_LOOK_SECONDS = 0.25
_IDLE_SECONDS = 1.0
#: who looked away for so long cannot say that others were silent, or sent too much unheard
_STALL_SECONDS = 1.5
#: what a failed handshake is counted as; other faults are `protocol`
_FAULTS = {
    int(zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH): "no_key",
    int(zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC): "wrong_key",
}


class ConnectionWatch:
    """Counts and tells of connections that ended in a way they should not, and cuts strangers.

    It never ends a session: that stays open until its producer is back or silent for too long.

    Args:
        router: its socket; used by the same thread only.
        sessions: who is connected by which file descriptor.
        intake: where broken, refused and cut connections are counted.
        strangers: the limits of connections without a session.
        max_message_bytes: that the socket takes, for the log.
    """

    def __init__(
        self,
        router: zmq.Socket[bytes],
        sessions: Sessions,
        intake: Intake,
        strangers: Strangers,
        *,
        max_message_bytes: int,
    ) -> None:
        self.socket: zmq.Socket[bytes] = router.get_monitor_socket(_EVENTS)
        self.strangers = strangers
        self._router = router
        self._sessions = sessions
        self._intake = intake
        self._max_message_bytes = max_message_bytes
        self._cut_at = 0.0
        self._crowded = False

    @property
    def waits_seconds(self) -> float:
        """How long the thread may sleep before `cut` is called again."""
        strangers = len(self.strangers) > len(self._sessions)
        return _LOOK_SECONDS if strangers else _IDLE_SECONDS

    def look(self, now: float) -> None:
        """Take in what has happened since the last look.

        After the messages of a turn, so that a BYE comes before the end of its connection.
        """
        failed = 0
        for _ in range(_MOST_EVENTS):
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            told = parse_monitor_message(frames)
            event, value = int(told["event"]), int(told["value"])
            if event == zmq.EVENT_ACCEPTED:
                self.strangers.accepted(value, now)
            elif event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
                self._handshake_failed(_FAULTS.get(value, "protocol"))
            elif event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
                self._intake.refused_handshakes["unfinished"] += 1
            elif event == zmq.EVENT_DISCONNECTED:
                self.strangers.ended(value)
                self._disconnected(value)
            elif event == zmq.EVENT_ACCEPT_FAILED:
                failed = value
        if failed:
            self._not_accepted(failed)
        self._intake.connections = len(self.strangers)

    def cut(self, now: float) -> None:
        """Shut down the connections that go too far; does nothing within a look's time."""
        if now - self._cut_at < _LOOK_SECONDS and not self._crowded:
            return
        self._crowded = False
        if now - self._cut_at > _STALL_SECONDS:  # stopped, swapped out, or starved
            self.strangers.excuse(now - self._cut_at)
        self._cut_at = now
        heard = {session.descriptor: session.heard_at for session in self._sessions}
        granted = {session.descriptor: session.granted_bytes for session in self._sessions}
        for descriptor, reason in self.strangers.to_cut(heard, now, granted):
            cut(descriptor)
            self._intake.cut_connections[reason] += 1
            _log.warning(
                "a connection is cut (%s): see stream.max_connections, greeting_seconds and "
                "max_stranger_bytes",
                reason,
                extra={"key": f"cut {reason}"},
            )

    def close(self) -> None:
        self._router.disable_monitor()

    def _not_accepted(self, error: int) -> None:
        """No descriptor is left: count it once a look, and cut at once what goes too far."""
        self._crowded = True
        self._intake.refused_handshakes["not_accepted"] += 1
        _log.error(
            "a connection could not be accepted: %s; raise the limit of file descriptors "
            "(LimitNOFILE= of systemd, ulimit -Hn), or lower stream.max_connections",
            os.strerror(error),
            extra={"key": "not_accepted"},
        )

    def _handshake_failed(self, reason: str) -> None:
        self._intake.refused_handshakes[reason] += 1
        _log.warning(
            "a connection is refused (%s): its peer showed no key, a wrong one, or does not "
            "speak ZeroMQ",
            reason,
            extra={"key": f"handshake {reason}"},
        )

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
            self._max_message_bytes,
            extra={"key": f"no_bye {producer_id}"},
        )

    def _without_session(self) -> None:
        self._intake.broken_connections["no_session"] += 1
        _log.info(
            "a connection ended that had no session: its producer was refused, it does not speak "
            "ZeroMQ (a browser, a probe of the port), or it sent a frame of more than %d bytes",
            self._max_message_bytes,
            extra={"key": "no_session"},
        )
