"""Acks and credit: one cumulative ack for all that a session sent in a turn, with its window."""

from __future__ import annotations

import math
from collections.abc import Callable

from insitu.stream.inlet import Inlet
from insitu.wire.messages import Message
from insitu_service.credit import window_bytes
from insitu_service.greeting import CREDIT_BATCHES
from insitu_service.quota import Quotas
from insitu_service.session import Session, Sessions

Send = Callable[[bytes, Message], None]

#: a stream in full flow is acknowledged this seldom; each ack costs both sides some work
_BATCHES_PER_ACK = 8


class Acknowledger:
    """Sends acks and renews credit.

    Args:
        always_room: the ring drops instead of filling up, so credit never ends.
        quotas: of each producer; None for none.
    """

    def __init__(
        self, sessions: Sessions, inlet: Inlet, send: Send, *, row_bytes: int,
        always_room: bool, quotas: Quotas | None = None,
    ) -> None:  # fmt: skip
        self._sessions = sessions
        self._inlet = inlet
        self._send = send
        self._row_bytes = row_bytes
        self._ring_bytes = inlet.capacity_samples * row_bytes
        self._always_room = always_room
        self._quotas = quotas
        self._owing: dict[Session, int] = {}
        self._throttled: dict[Session, float] = {}  # since when

    def owe(self, session: Session) -> None:
        """This session is to get an ack: with others that come soon, or when nothing comes."""
        self._owing[session] = self._owing.get(session, 0) + 1

    @property
    def owes(self) -> bool:
        """Whether somebody waits for an ack, so that a pause should be used for it."""
        return bool(self._owing)

    def forget(self, session: Session) -> None:
        """The session ends; the credit that it leaves unused goes back to its producer."""
        self._owing.pop(session, None)
        if self._quotas is not None:
            self._end_throttle(session, self._quotas)
            unused = session.receiver.unsettled_bytes
            self._quotas.give_back(session.producer_id, unused)

    def settle(self, *, idle: bool) -> None:
        """Send the acks that are due: after a few batches, when credit runs low, in a pause.

        A session whose batch found no room hears nothing until `renew` has some for it.
        """
        if not self._owing:
            return
        room, low = self._room_bytes(), self._low_bytes()
        for session, batches in tuple(self._owing.items()):
            due = idle or batches >= _BATCHES_PER_ACK or session.outstanding_bytes < low
            if due or session.held_bytes:
                self._owing.pop(session)
                if session.held_bytes <= room:
                    self._acknowledge(session, room)

    def settle_session(self, session: Session) -> None:
        """Send an ack now, unless the session waits for room."""
        self._owing.pop(session, None)
        room = self._room_bytes()
        if session.held_bytes <= room:
            self._acknowledge(session, room)

    def renew(self) -> None:
        """Room has come free: give it to the sessions that wait or run low."""
        room = self._room_bytes()
        low = self._low_bytes()
        for session in self._sessions:
            if session in self._throttled:
                continue
            if session.starved or session.outstanding_bytes < low:
                self.owe(session)
        if room:
            self.settle(idle=True)

    @property
    def throttle_seconds(self) -> float:
        """Until a producer that waits for its quota can be given more; infinite if none does."""
        if self._quotas is None or not self._throttled:
            return math.inf
        return min(self._quotas.wait_seconds(session.producer_id) for session in self._throttled)

    def ease(self) -> None:
        """Give credit to those whose quota allows it again."""
        if self._quotas is None:
            return
        for session in tuple(self._throttled):
            if self._quotas.wait_seconds(session.producer_id) <= 0.0:
                self._end_throttle(session, self._quotas)
                self.settle_session(session)

    def tell_durable(self) -> None:
        """The log was synced: tell those who have something in it."""
        for session in self._sessions:
            durable = self._inlet.durable(session.producer_id, session.hello.epoch)
            if durable > session.told_durable:
                self.owe(session)
        self.settle(idle=True)

    def window(self, session: Session) -> int:
        """Bytes that the session may have under way, within its quota."""
        return self._granted(session, self._fair_window(session, self._room_bytes()))

    def _granted(self, session: Session, window: int) -> int:
        """As much of the window as the quota pays for; what was given before stays given."""
        quotas, outstanding = self._quotas, session.outstanding_bytes
        if quotas is None or window <= outstanding:
            return window
        wanted = window - outstanding
        granted = quotas.grant(session.producer_id, wanted)
        needed = max(session.needed_bytes, session.held_bytes)
        if granted < wanted and needed > outstanding + granted:
            self._throttled.setdefault(session, quotas.now)
        else:
            self._end_throttle(session, quotas)
        return outstanding + granted

    def _end_throttle(self, session: Session, quotas: Quotas) -> None:
        since = self._throttled.pop(session, None)
        if since is not None:
            session.figures.throttled_seconds += quotas.now - since

    def _fair_window(self, session: Session, room: int) -> int:
        return window_bytes(
            needed_bytes=max(session.needed_bytes, session.held_bytes),
            promised_to_others_bytes=self._sessions.promised_bytes() - session.outstanding_bytes,
            sessions=max(1, len(self._sessions)),
            room_bytes=room,
            ring_bytes=self._ring_bytes,
            row_bytes=self._row_bytes,
        )

    def _acknowledge(self, session: Session, room: int) -> None:
        session.held_bytes = 0
        whose = session.producer_id, session.hello.epoch
        session.told_durable = self._inlet.durable(*whose)
        ack = session.receiver.ack(
            self._granted(session, self._fair_window(session, room)), CREDIT_BATCHES,
            durable=session.told_durable, trained=self._inlet.trained(*whose),
        )  # fmt: skip
        if session.needed_bytes <= session.outstanding_bytes:
            session.needed_bytes = 0
        self._send(session.identity, ack)

    def _low_bytes(self) -> int:
        """A session with less credit than this should hear of more soon."""
        return self._ring_bytes // (8 * max(1, len(self._sessions)))

    def _room_bytes(self) -> int:
        if self._always_room and not self._inlet.problem:
            return self._ring_bytes
        return self._inlet.free_samples() * self._row_bytes
