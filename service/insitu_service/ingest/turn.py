"""One turn of the ingest thread: what is done between two sleeps, and in which order. No sockets.

    begin      nobody's silence counts while we looked away
    look_up    somebody woke us: drain, tell what is synced, give the room that came free
    ignores    who sends too much is not listened to
    take       a message: decode it, and give it to the reception
    end        let in what waits in the log, acknowledge, let go of those who are silent

The ingest thread (`ingest.py`) brings the bytes; the simulation of the tests drives the same object
in virtual time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from insitu.stream.inlet import Inlet
from insitu.wire.codec import decode
from insitu.wire.messages import Hello, Message, Ping, WireError
from insitu.wire.values import Payload
from insitu_service.ingest.reception import Reception
from insitu_service.ingest.session import NOWHERE, Origin

#: who looked away for so long cannot say that others were silent
STALL_SECONDS = 5.0
#: nothing comes for so long: time to acknowledge what has come
PAUSE_SECONDS = 0.001
#: the longest sleep
IDLE_SECONDS = 1.0
#: between two looks at who is silent; with many producers a look takes its time
EXPIRE_SECONDS = 0.1


class Turn:
    """Runs the reception; every method is called by the ingest thread, with monotonic seconds."""

    def __init__(self, reception: Reception, inlet: Inlet, now: float) -> None:
        self.reception = reception
        self._inlet = inlet
        self._more_to_tend = True  # after a restart the log may hold what was accepted
        self._turned_at = self._tended_at = self._expired_at = now

    @property
    def waits_seconds(self) -> float:
        """How long to sleep unless something comes."""
        if self._more_to_tend:
            return 0.0
        acknowledger = self.reception.acknowledger
        if acknowledger.owes:
            return PAUSE_SECONDS
        return min(IDLE_SECONDS, max(PAUSE_SECONDS, acknowledger.throttle_seconds))

    def begin(self, now: float) -> None:
        self.reception.acknowledger.begin(now)
        away, self._turned_at = now - self._turned_at, now
        if away > STALL_SECONDS:  # stopped, swapped out, or starved
            self.reception.lobby.excuse(away)

    def look_up(self, drain_text: str | None) -> None:
        """Somebody woke us: there is room, the log was synced, or nothing new is to be taken.

        Args:
            drain_text: why nothing new is to be taken from now on; None while it is.
        """
        lobby = self.reception.lobby
        if drain_text is not None and not lobby.draining:
            lobby.drain(drain_text)
        self._tend(self._turned_at)
        self.reception.acknowledger.tell_durable()
        if not lobby.draining:
            self.reception.acknowledger.renew()

    def ignores(self, identity: bytes, now: float) -> bool:
        """Whether the next message of this peer is to be let go of, unseen."""
        return self.reception.ignores(identity, now)

    def take(
        self,
        identity: bytes,
        frames: Sequence[Payload],
        now: float,
        origin: Callable[[], Origin] = lambda: NOWHERE,
    ) -> None:
        """One message of a peer that is listened to; `origin` tells by which connection."""
        try:
            message = decode(frames)
        except WireError as error:
            self.reception.malformed(identity, error, now)
        else:
            source = origin() if isinstance(message, (Hello, Ping)) else NOWHERE
            self._handle(identity, message, now, source)

    def _handle(self, identity: bytes, message: Message, now: float, origin: Origin) -> None:
        """A fault of ours in one message costs one session, not the service."""
        try:
            self.reception.handle(identity, message, now, origin)
        except Exception:
            self.reception.failed(identity, message)

    def end(self, now: float, *, idle: bool) -> None:
        """After the messages; `idle`: there were none."""
        # with many producers there is always a message, and never an idle turn
        if idle or self._more_to_tend or now - self._tended_at >= IDLE_SECONDS:
            self._tend(now)
        if not self.reception.lobby.draining:
            self.reception.acknowledger.ease()
        self.reception.acknowledger.settle(idle=idle)
        if now - self._expired_at >= EXPIRE_SECONDS:
            self._expired_at = now
            self.reception.lobby.expire(now)

    def _tend(self, now: float) -> None:
        """Let in what waits in the log, and give the room that came free by it."""
        self._tended_at = now
        had_room = self._inlet.free_samples() > 0
        self._more_to_tend = self._inlet.tend()
        if not had_room and self._inlet.free_samples() > 0 and not self.reception.lobby.draining:
            self.reception.acknowledger.renew()
