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
from insitu_service.ingest.session import NOWHERE, Origin, Session, Sessions
from insitu_service.security.flood_gate import FloodGate

_log = logging.getLogger("insitu.ingest")


class Reception:
    """Dispatches messages; raises nothing that a producer could provoke.

    Args:
        gate: who sends too much that leads to nothing is not listened to; None to hear all.
    """

    def __init__(
        self,
        sessions: Sessions,
        lobby: Lobby,
        data_path: DataPath,
        acknowledger: Acknowledger,
        intake: Intake,
        send: Send,
        gate: FloodGate | None = None,
    ) -> None:
        self.sessions = sessions
        self.lobby = lobby
        self.acknowledger = acknowledger
        self._data_path = data_path
        self._intake = intake
        self._send = send
        self._gate = gate

    def ignores(self, identity: bytes, now: float) -> bool:
        """Whether the next message of this peer is to be let go of; then it is counted."""
        if self._gate is None or not self._gate.is_shut(identity, now):
            return False
        self._intake.refused_messages["flood"] += 1
        return True

    def handle(
        self, identity: bytes, message: Message, now: float, origin: Origin = NOWHERE
    ) -> None:
        """Do what a message asks for; `origin` is given for HELLO and PING."""
        self._intake.messages += 1
        if isinstance(message, Hello):
            if not self.lobby.hello(identity, message, now, origin):
                self._wasted(identity, now)
            return
        if not isinstance(message, (Data, Ping, Bye)):
            self._intake.refused_messages["unexpected"] += 1
            self._wasted(identity, now)
            return
        session = self.sessions.of(message.session, identity)
        if session is None:
            self._intake.refused_messages["no_session"] += 1
            self._send(identity, NoSession(message.session))
            self._wasted(identity, now)
            return
        session.heard_at = now
        if _brings_nothing(session, message):
            self._wasted(identity, now)
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

    def _wasted(self, identity: bytes, now: float) -> None:
        """A message led to nothing; too many of these, and the next ones are not looked at."""
        if self._gate is not None and self._gate.wasted(identity, now):
            _log.warning(
                "a peer sends too much that leads to nothing, and is not listened to for a "
                "while: see stream.max_wasted_messages_per_second",
                extra={"key": "flood"},
            )

    def malformed(self, identity: bytes, error: WireError, now: float) -> None:
        """Bytes that are no message: counted, and told to a peer that is no producer yet."""
        self._wasted(identity, now)
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


def _brings_nothing(session: Session, message: Data | Ping | Bye) -> bool:
    """PING after PING with nothing between them, or a batch that is begun once more."""
    if isinstance(message, Data):
        return session.reservation is not None and message.fragment == 0
    return isinstance(message, Ping) and not session.fresh


def _cut(text: str) -> str:
    """As much of a text as fits a message."""
    return text[:4096]
