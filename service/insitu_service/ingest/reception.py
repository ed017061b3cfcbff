"""Reception: gives every message of a producer to whoever deals with it. No sockets.

The ingest thread is the only caller. Acks are not sent message by message but by `settle`, once
for all messages of a turn.
"""

from __future__ import annotations

import logging

from insitu.wire.messages import (
    Bye,
    Data,
    Hello,
    Message,
    NoSession,
    Ping,
    Pong,
    RefusalCode,
    Refused,
    VersionError,
    WireError,
)
from insitu_service.ingest.acknowledger import Acknowledger, Send
from insitu_service.ingest.data_path import DataPath
from insitu_service.ingest.intake import Intake
from insitu_service.ingest.lobby import Lobby
from insitu_service.ingest.session import NOWHERE, Origin, Sessions

_log = logging.getLogger("insitu.ingest")


class Reception:
    """Dispatches messages; raises nothing that a producer could provoke."""

    def __init__(
        self,
        sessions: Sessions,
        lobby: Lobby,
        data_path: DataPath,
        acknowledger: Acknowledger,
        intake: Intake,
        send: Send,
    ) -> None:
        self.sessions = sessions
        self.lobby = lobby
        self.acknowledger = acknowledger
        self._data_path = data_path
        self._intake = intake
        self._send = send

    def handle(
        self, identity: bytes, message: Message, now: float, origin: Origin = NOWHERE
    ) -> None:
        """Do what a message asks for; `origin` is given for HELLO and PING."""
        self._intake.messages += 1
        if isinstance(message, Hello):
            self.lobby.hello(identity, message, now, origin)
            return
        if not isinstance(message, (Data, Ping, Bye)):
            self._intake.refused_messages["unexpected"] += 1
            return
        session = self.sessions.of(message.session, identity)
        if session is None:
            self._intake.refused_messages["no_session"] += 1
            self._send(identity, NoSession(message.session))
            return
        session.heard_at = now
        if isinstance(message, Data):
            session.idle, session.fresh = False, True
            if not self.lobby.draining:  # else not acknowledged: it stays with the producer
                self._data_path.receive(session, message)
            return
        figures = session.figures
        figures.pushed_samples = message.pushed_rows
        figures.dropped_samples = message.dropped_rows
        figures.blocked_seconds = message.blocked_seconds
        if isinstance(message, Ping):
            session.has_waited = session.needed_bytes > 0 or message.needed_bytes > 0
            session.needed_bytes = message.needed_bytes
            session.idle, session.fresh = not session.fresh, False
            session.descriptor = origin.descriptor
            if not self.lobby.draining:
                self.acknowledger.settle_session(session)
            self._send(identity, Pong(message.session, message.stamp_ns))
        else:
            self.lobby.bye(session, message)

    def malformed(self, identity: bytes, error: WireError) -> None:
        """Bytes that are no message: counted, and told to a peer that is no producer yet."""
        if isinstance(error, VersionError):
            self._intake.refused_hellos[RefusalCode.VERSION] += 1
            _log.warning("a peer is refused: %s", error, extra={"key": "version"})
            self._send(identity, Refused(RefusalCode.VERSION, str(error), False))
            return
        self._intake.refused_messages["malformed"] += 1
        extra = {"key": "malformed"}
        _log.warning("a message is not understood and ignored: %s", error, extra=extra)
        if not any(session.identity == identity for session in self.sessions):
            self._send(identity, Refused(RefusalCode.MALFORMED, _cut(str(error)), False))

    def failed(self, identity: bytes, message: Message) -> None:
        """Handling this message raised: our fault. The session ends; its producer may come again.

        What it has not been acknowledged it still holds and sends again, so nothing is lost.
        """
        self._intake.refused_messages["internal"] += 1
        kind = type(message).__name__
        text = "a %s message could not be handled; this is a fault in insitu, please report it"
        _log.exception(text, kind, extra={"key": f"failed {kind}"})
        number = getattr(message, "session", 0)
        session = self.sessions.of(number, identity)
        if session is not None:
            self.lobby.close(session)
            self._send(identity, NoSession(number))


def _cut(text: str) -> str:
    """As much of a text as fits a message."""
    return text[:4096]
