"""The lobby: producers that come, go, fall silent, or are replaced by a newer one."""

from __future__ import annotations

import logging

from insitu.stream.inlet import Inlet
from insitu.wire.messages import Bye, Drain, Fenced, Hello, NoSession, RefusalCode, Refused
from insitu.wire.receiver import Receiver
from insitu_service.ingest.acknowledger import Acknowledger, Send
from insitu_service.ingest.greeting import Terms, goes_on_from_cursor
from insitu_service.ingest.intake import Intake
from insitu_service.ingest.placement import Placement
from insitu_service.ingest.session import NOWHERE, Origin, Session, Sessions
from insitu_service.security.rate_limit import PeerRateLimits

_log = logging.getLogger("insitu.ingest")


class Lobby:
    """Opens and closes sessions, and tells the inlet who is in the stream.

    Args:
        terms: who may come in.
        timeout_seconds: a session that is silent for so long is over.
        greetings: how often one connection may greet; None for no limit.
    """

    def __init__(
        self,
        sessions: Sessions,
        inlet: Inlet,
        terms: Terms,
        acknowledger: Acknowledger,
        intake: Intake,
        send: Send,
        *,
        timeout_seconds: float,
        greetings: PeerRateLimits | None = None,
    ) -> None:
        self.draining = ""
        self._sessions = sessions
        self._inlet = inlet
        self._terms = terms
        self._acknowledger = acknowledger
        self._intake = intake
        self._send = send
        self._timeout_seconds = timeout_seconds
        self._greetings = greetings
        #: who was in a task when the checkpoint was written that the service resumed from
        self._awaited = set(inlet.producers_in_tasks())
        self._awaited_until: float | None = None
        self._placement = Placement(inlet, terms.ack_level)
        #: runs that resume and are not answered yet, by producer id
        self._unplaced: dict[str, tuple[bytes, Hello, Origin]] = {}

    def hello(self, identity: bytes, hello: Hello, now: float, origin: Origin = NOWHERE) -> bool:
        """Open a session, or say why not; whether there is one."""
        refusal = self._too_often(identity, now)
        if refusal is not None:
            return self._refuse(identity, hello, refusal)
        return self._admit(identity, hello, now, origin)

    def _refuse(self, identity: bytes, hello: Hello, refusal: Refused) -> bool:
        self._intake.refused_hellos[refusal.code] += 1
        self._send(identity, refusal)
        words = ("producer %r is refused (%s): %s", hello.producer_id, refusal.code)
        _log.warning(*words, refusal.text, extra={"key": f"refused {refusal.code}"})
        return False

    def _admit(self, identity: bytes, hello: Hello, now: float, origin: Origin) -> bool:
        refusal = self._terms.refusal(hello, origin, self._sessions, self.draining)
        if refusal is not None:
            return self._refuse(identity, hello, refusal)
        if not self._make_way(identity, hello):
            return False
        if not self._placement.place(hello):
            return self._answer_later(identity, hello, origin)
        position = self._inlet.position(hello.producer_id)
        receiver = self._terms.receiver(hello, self._sessions.take_number(), position)
        if isinstance(receiver, Fenced):
            self._fence(identity, receiver)
            return False
        lost = receiver.resume(hello)
        is_new = position is None or position.epoch < hello.epoch
        if position is None or is_new or receiver.next_row != position.rows:
            noted = self._placement.note(hello, receiver)
            if is_new and not noted and goes_on_from_cursor(hello):
                return self._answer_later(identity, hello, origin)
        if lost:
            self._lost(hello, lost)
        if (
            receiver.next_seq == 1
            and goes_on_from_cursor(hello)
            and not self._placement.is_safe(hello)
        ):
            return self._answer_later(identity, hello, origin)
        self._open(identity, hello, receiver, now, origin)
        return True

    def _open(
        self, identity: bytes, hello: Hello, receiver: Receiver, now: float, origin: Origin
    ) -> None:
        producer_id = hello.producer_id
        session = Session(
            identity,
            hello,
            receiver,
            now,
            self._intake.of_producer(producer_id),
            origin.descriptor,
            origin.key,
        )
        self._sessions.add(session)
        self._unplaced.pop(producer_id, None)
        self._awaited.discard(producer_id)
        self._inlet.reopen()
        position = self._inlet.position(producer_id)
        window = self._acknowledger.window(session)
        self._send(identity, self._terms.welcome(hello, receiver, position, window))
        _log.info(
            "producer %s has come, at batch %d",
            producer_id,
            receiver.next_seq,
            extra={"key": f"come {producer_id}"},
        )

    def _too_often(self, identity: bytes, now: float) -> Refused | None:
        if self._greetings is None or self._greetings.allows(identity, now):
            return None
        return Refused(RefusalCode.RATE, "this connection greets too often", True)

    def _make_way(self, identity: bytes, hello: Hello) -> bool:
        """End the session that this producer id has; False when the newcomer is the older one."""
        other = self._sessions.of_producer(hello.producer_id)
        if other is None:
            return True
        text = f"another producer {hello.producer_id!r} has connected with a newer epoch"
        if other.hello.epoch > hello.epoch:
            self._fence(identity, Fenced(other.hello.epoch, text))
            return False
        if other.hello.epoch < hello.epoch:
            self._fence(other.identity, Fenced(hello.epoch, text))
            _log.warning("%s: the older one is fenced", text, extra={"key": "fenced"})
            self._inlet.leave(other.producer_id)
        self.close(other)
        return True

    def _fence(self, identity: bytes, fenced: Fenced) -> None:
        self._intake.fenced_sessions += 1
        self._send(identity, fenced)

    def _answer_later(self, identity: bytes, hello: Hello, origin: Origin) -> bool:
        """Nothing may be told that may be forgotten: the run leaves out what it is told of."""
        if len(self._unplaced) < self._terms.max_producers:
            self._unplaced[hello.producer_id] = identity, hello, origin
        return False

    def _answer_unplaced(self, now: float) -> None:
        """Greet those whose place could not be written down when they came."""
        for producer_id, (identity, hello, origin) in list(self._unplaced.items()):
            if not self._inlet.problem and self._placement.is_safe(hello):
                del self._unplaced[producer_id]
                self._admit(identity, hello, now, origin)

    def _lost(self, hello: Hello, rows: int) -> None:
        self._intake.lost_samples += rows
        _log.error(
            "%d samples of producer %s were acknowledged by an earlier life of this service and "
            "are in no checkpoint that it resumed from: they are lost",
            rows,
            hello.producer_id,
        )

    def bye(self, session: Session, bye: Bye) -> None:
        """The producer has ended its stream."""
        self._intake.producer_dropped_samples += session.receiver.ended(bye)
        self._acknowledger.settle_session(session)
        self._send(session.identity, bye)
        _log.info(
            "producer %s has ended its stream: %d rows pushed, %d of them dropped on its side",
            session.producer_id,
            bye.pushed_rows,
            bye.dropped_rows,
            extra={"key": f"bye {session.producer_id}"},
        )
        self._leave(session)
        self._sessions.part(session.descriptor)

    def expire(self, now: float) -> None:
        """End the sessions that have been silent for too long; answer who waits for the disk."""
        if self._unplaced:
            self._answer_unplaced(now)
        for session in self._sessions:
            silence = now - session.heard_at
            if silence > self._timeout_seconds:
                self._intake.expired_sessions += 1
                words = "producer %s has been silent for %.0f s and counts as gone"
                key = f"expired {session.producer_id}"
                _log.warning(words, session.producer_id, silence, extra={"key": key})
                self._leave(session)
        if self._awaited:
            self._expire_awaited(now)

    def _expire_awaited(self, now: float) -> None:
        """Those who have not come back since the resume are in no task any more."""
        if self._awaited_until is None:
            self._awaited_until = now + self._timeout_seconds
        if now > self._awaited_until:
            names = ", ".join(sorted(self._awaited)[:10])
            words = "%d producers have not come back since the resume and count as gone: %s"
            _log.warning(words, len(self._awaited), names)
            for producer_id in sorted(self._awaited):  # an order that is the same in every process
                self._inlet.leave(producer_id)
            self._awaited.clear()

    def excuse(self, seconds: float) -> None:
        """We did not listen for so long; nobody's silence counts that time."""
        for session in self._sessions:
            session.heard_at += seconds
        if self._awaited_until is not None:
            self._awaited_until += seconds

    def drain(self, text: str) -> None:
        """Take nothing new from now on, and say so."""
        self.draining = text
        for session in self._sessions:
            abandon(session, self._inlet)
            self._send(session.identity, Drain(session.receiver.session, text))

    def recheck(self) -> None:
        """The allow-list is another: end the sessions whose key does not allow them any more."""
        for session in self._sessions:
            objection = self._terms.objection(session.hello, session.key)
            if objection:
                self._intake.refused_hellos[RefusalCode.IDENTITY] += 1
                _log.warning("the session of %r is ended: %s", session.producer_id, objection)
                self._send(session.identity, NoSession(session.receiver.session))
                self._leave(session)

    def close(self, session: Session) -> None:
        """Forget a session; its producer stays where it was in the stream."""
        abandon(session, self._inlet)
        self._acknowledger.forget(session)
        self._sessions.remove(session)

    def _leave(self, session: Session) -> None:
        self.close(session)
        self._inlet.leave(session.producer_id)
        if not len(self._sessions):
            self._inlet.end()


def abandon(session: Session, inlet: Inlet) -> None:
    """Give back the room of a batch that is not complete."""
    reservation, session.reservation = session.reservation, None
    if reservation is not None and reservation.open:
        inlet.abandon(reservation)
