"""Acks and credit: one cumulative ack for all that a session sent in a turn, with its window."""

from __future__ import annotations

import math
from collections.abc import Callable

from insitu.stream.inlet import Inlet
from insitu.wire.messages import Message
from insitu_service.ingest.greeting import CREDIT_BATCHES
from insitu_service.ingest.quota import Quotas
from insitu_service.ingest.session import Session, Sessions
from insitu_service.ingest.stock import Stock

Send = Callable[[bytes, Message], None]

#: a stream in full flow is acknowledged this seldom; each ack costs both sides some work
_BATCHES_PER_ACK = 8
#: of the ring that a session is given when it comes: others may be about to come, too
_FIRST_PART = 32
#: what a look at all sessions is good for, for each of them; it takes about a microsecond of each
_LOOK_SECONDS = 20e-6


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
        self._owing: dict[Session, tuple[int, int]] = {}  # batches, and the turn of the first
        self._turns = 0
        self._throttled: dict[Session, float] = {}  # since when
        self._now = 0.0  # as of the present turn
        self._looked: Stock | None = None
        self._looked_until = 0.0

    def begin(self, now: float) -> None:
        """A turn begins."""
        self._now = now

    def owe(self, session: Session) -> None:
        """This session is to get an ack: with others that come soon, or when nothing comes."""
        batches, turn = self._owing.get(session, (0, self._turns))
        self._owing[session] = batches + 1, turn

    @property
    def owes(self) -> bool:
        """Whether somebody waits for an ack, so that a pause should be used for it."""
        return bool(self._owing)

    def forget(self, session: Session) -> None:
        """The session ends; the credit that it leaves unused goes back to its producer."""
        self._owing.pop(session, None)
        self._looked = None
        if self._quotas is not None:
            self._end_throttle(session, self._quotas)
            unused = session.receiver.unsettled_bytes
            self._quotas.give_back(session.producer_id, unused)

    def settle(self, *, idle: bool) -> None:
        """Send the acks that are due: after a few batches, a turn later, when credit runs low.

        All of them in a pause, which need not come: somebody may talk all the time. The least
        served first. A session whose batch found no room hears nothing until `renew`
        has some for it.
        """
        self._turns += 1
        if not self._owing:
            return
        held = any(session.held_bytes for session in self._owing)
        stock, low = self._look() if held else self._stock(), self._low_bytes()
        owing = sorted(self._owing.items(), key=lambda item: item[0].share_bytes(stock.now))
        for session, (batches, turn) in owing:
            old = batches >= _BATCHES_PER_ACK or turn < self._turns - 1
            if idle or old or session.outstanding_bytes < low or session.held_bytes:
                self._owing.pop(session)
                if session.held_bytes <= stock.room_bytes:
                    self._acknowledge(session, stock, stock.window(session))

    def settle_session(self, session: Session) -> None:
        """Send an ack now, unless the session waits for room."""
        self._owing.pop(session, None)
        waits = session.needed_bytes > 0 or session.held_bytes > 0
        stock = self._look() if waits else self._stock()
        if session.held_bytes <= stock.room_bytes:
            self._acknowledge(session, stock, stock.window(session))

    def renew(self) -> None:
        """Room has come free: give it to the sessions that wait or run low, least served first."""
        stock, low = self._look(), self._low_bytes()
        if not stock.room_bytes:
            return
        wanting = [
            session
            for session in self._sessions
            if session not in self._throttled
            and (session.starved or session.outstanding_bytes < low)
            and session.held_bytes <= stock.room_bytes
        ]
        for session in sorted(wanting, key=lambda session: session.share_bytes(stock.now)):
            window = stock.window(session, in_turn=True)
            if session.held_bytes or window > session.outstanding_bytes:
                self._owing.pop(session, None)
                self._acknowledge(session, stock, window)

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
        """Bytes that a new session may have under way at first, within its quota."""
        stock = self._look()  # there is one more to share with
        first = max(self._row_bytes, self._ring_bytes // _FIRST_PART)
        window = self._granted(session, min(first, stock.window(session)))
        session.serve(window, stock.now)
        self._looked = None
        return window

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

    def _stock(self) -> Stock:
        """As of the last look at all sessions, if that was not long ago.

        What came in since then has taken as much room as it had promised, and room that came free
        since is given away a little later.
        """
        if self._looked is not None and self._now <= self._looked_until:
            return self._looked
        return self._look()

    def _look(self) -> Stock:
        self._looked_until = self._now + _LOOK_SECONDS * len(self._sessions)
        self._looked = Stock.take(
            self._sessions,
            self._throttled,
            room_bytes=self._room_bytes(),
            ring_bytes=self._ring_bytes,
            row_bytes=self._row_bytes,
        )
        return self._looked

    def _acknowledge(self, session: Session, stock: Stock, window: int) -> None:
        window = self._granted(session, window)
        session.held_bytes = 0
        whose = session.producer_id, session.hello.epoch
        session.told_durable = self._inlet.durable(*whose)
        before = session.outstanding_bytes
        ack = session.receiver.ack(
            window, CREDIT_BATCHES,
            durable=session.told_durable, trained=self._inlet.trained(*whose),
        )  # fmt: skip
        if session.outstanding_bytes > before:
            session.idle, session.fresh = False, True
            stock.give(session, session.outstanding_bytes - before)
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
