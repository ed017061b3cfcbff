"""The sessions of the producers that are connected, by number and by producer id."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field

from insitu.stream.ring import Reservation
from insitu.wire.messages import Data, Hello
from insitu.wire.receiver import Receiver
from insitu_service.ingest.intake import ProducerFigures

#: shares are made even over about so long
_SHARE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Origin:
    """The connection that a message came by.

    Args:
        descriptor: as the monitor of the socket names it; -1 when it is not known.
        key: the public key that it was admitted by, see `Gatekeeper`; empty when not known.
    """

    descriptor: int = -1
    key: str = ""


NOWHERE = Origin()


@dataclass(slots=True, eq=False)
class Session:
    """One producer's connection, and what it has told of itself.

    Args:
        identity: routing id of its socket.
        hello: how it introduced itself.
        receiver: the state of the protocol.
        heard_at: monotonic seconds of its last message.
        figures: of the producer.
        descriptor: of its connection, see `Origin`.
        key: of its connection, see `Origin`.
    """

    identity: bytes
    hello: Hello
    receiver: Receiver
    heard_at: float
    figures: ProducerFigures
    descriptor: int = -1
    key: str = ""
    reservation: Reservation | None = None
    first_fragment: Data | None = None
    held_bytes: int = 0  # of the batch that found no room; 0 when none waits for it
    needed_bytes: int = 0
    has_waited: bool = False  # for credit, since the PING before
    idle: bool = False  # it has sent no data from one PING to the next
    fresh: bool = True  # data came, or credit was given, since its last PING
    served_bytes: float = 0.0  # credit that it was given lately, as of `served_at`
    served_at: float = 0.0
    told_durable: int = 0  # the newest batch that its producer knows to be synced
    gap_rows: int = 0  # that its producer dropped before the batch that comes in

    @property
    def producer_id(self) -> str:
        return self.hello.producer_id

    @property
    def outstanding_bytes(self) -> int:
        return self.receiver.outstanding_bytes

    def share_bytes(self, now: float) -> float:
        """Credit that it was given lately; what is long ago counts less and less."""
        return self.served_bytes * math.exp((self.served_at - now) / _SHARE_SECONDS)

    def serve(self, bytes_: float, now: float) -> None:
        """Note credit that was given."""
        self.served_bytes = self.share_bytes(now) + bytes_
        self.served_at = now

    @property
    def granted_bytes(self) -> int:
        """Of credit, what has not been settled: it may be on its way, or here and not handled."""
        begun = 0 if self.first_fragment is None else self.first_fragment.payload_bytes
        return self.receiver.outstanding_bytes + begun

    @property
    def starved(self) -> bool:
        """It waits for credit, and what it holds does not suffice."""
        return self.held_bytes > 0 or self.needed_bytes > self.outstanding_bytes


def _first_number() -> int:
    """Such that no life of a service gives a number again that an earlier one gave.

    Or an answer of the earlier one that comes late would be taken for one of this.
    """
    return secrets.randbelow(1 << 52) << 10


@dataclass
class Sessions:
    """All sessions that live; at most one for each producer id.

    Args:
        next_number: of the next session.
    """

    next_number: int = field(default_factory=_first_number)

    _by_number: dict[int, Session] = field(default_factory=dict)
    _by_producer: dict[str, Session] = field(default_factory=dict)
    _parted: set[int] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self._by_number)

    def __iter__(self) -> Iterator[Session]:
        return iter(tuple(self._by_number.values()))

    def take_number(self) -> int:
        """The number of a session that begins."""
        number, self.next_number = self.next_number, self.next_number + 1
        return number

    def add(self, session: Session) -> None:
        now = session.heard_at
        shares = [other.share_bytes(now) for other in self._by_number.values()]
        session.serve(min(shares, default=0.0), now)  # it waits for nobody's past, nor they for its
        self._parted.discard(session.descriptor)
        self._by_number[session.receiver.session] = session
        self._by_producer[session.producer_id] = session

    def remove(self, session: Session) -> None:
        del self._by_number[session.receiver.session]
        del self._by_producer[session.producer_id]

    def of(self, number: int, identity: bytes) -> Session | None:
        """The session of this number, if it belongs to this socket."""
        session = self._by_number.get(number)
        return session if session is not None and session.identity == identity else None

    def of_producer(self, producer_id: str) -> Session | None:
        return self._by_producer.get(producer_id)

    def at_descriptor(self, descriptor: int) -> list[Session]:
        """The sessions that came by this connection, mostly one or none."""
        return [s for s in self._by_number.values() if s.descriptor == descriptor]

    def part(self, descriptor: int) -> None:
        """A producer has said BYE; if it was the last of its connection that may end now."""
        if not self.at_descriptor(descriptor):
            self._parted.add(descriptor)

    def has_parted(self, descriptor: int) -> bool:
        """Whether a BYE was the last word of this connection; asked once, when it ends."""
        parted = descriptor in self._parted
        self._parted.discard(descriptor)
        return parted

    def promised_bytes(self) -> int:
        """Credit granted to all of them and not yet used."""
        return sum(session.receiver.outstanding_bytes for session in self._by_number.values())
