"""Greeting: who may open a session, and where its stream goes on."""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from insitu.schema import Schema
from insitu.stream.stamp import Position
from insitu.wire.began import Began
from insitu.wire.capabilities import RESUMES, ROW_COUNTS
from insitu.wire.checksum import choose
from insitu.wire.messages import (
    PROTOCOL_VERSION,
    AckLevel,
    Fenced,
    Hello,
    RefusalCode,
    Refused,
    Welcome,
)
from insitu.wire.receiver import Receiver
from insitu_service.ingest.session import Origin, Sessions
from insitu_service.security.allow_list import AllowList


@dataclass(frozen=True)
class Terms:
    """What every producer of this service is told, and what it must fulfil.

    Args:
        schema: of all streams.
        streams: names that are served.
        token: the secret to show; None when none is asked for.
        max_producers: sessions at a time.
        max_fragment_bytes, max_batch_bytes: as in WELCOME.
        when_full: what the ring does when it is full, for the producer's information.
        allow_list: what the key of a connection may greet as; None where no keys are asked for.
        ack_level: what an ack of this service is worth.
        heartbeat_seconds: how often a producer must be heard.
    """

    schema: Schema
    streams: frozenset[str]
    token: str | None
    max_producers: int
    max_fragment_bytes: int
    max_batch_bytes: int
    when_full: str
    allow_list: AllowList | None = None
    ack_level: AckLevel = AckLevel.RECEIVED
    heartbeat_seconds: float = 1.0

    def refusal(
        self, hello: Hello, origin: Origin, sessions: Sessions, draining: str
    ) -> Refused | None:
        """Why this producer may not come in; None when it may."""
        objection = self.objection(hello, origin.key)
        if objection:
            return Refused(RefusalCode.IDENTITY, objection, False)
        if self.token is not None and not hmac.compare_digest(
            hello.token.encode(), self.token.encode()
        ):
            return Refused(RefusalCode.TOKEN, "the token is missing or wrong", False)
        if hello.stream not in self.streams:
            names = ", ".join(sorted(self.streams))
            text = f"there is no stream {hello.stream!r} here; allowed: {names}"
            return Refused(RefusalCode.STREAM, text, False)
        difference = self.schema.difference(hello.schema)
        if difference:
            return Refused(RefusalCode.SCHEMA, difference[:4096], False)
        if draining:
            return Refused(RefusalCode.DRAINING, draining, True)
        known = sessions.of_producer(hello.producer_id) is not None
        if not known and len(sessions) >= self.max_producers:
            text = f"{len(sessions)} producers are connected; stream.max_producers allows no more"
            return Refused(RefusalCode.LIMIT, text, True)
        return None

    def objection(self, hello: Hello, key: str) -> str:
        """Why the key of a connection does not allow this greeting; empty when it does."""
        return "" if self.allow_list is None else self.allow_list.objection(key, hello)

    def receiver(self, hello: Hello, session: int, position: Position | None) -> Receiver | Fenced:
        """A receiver that goes on where this producer's stream stands; or it is out of date."""
        next_seq, next_row = 1, 0
        if position is not None and position.epoch > hello.epoch:
            text = f"a newer producer {hello.producer_id!r} has been here"
            return Fenced(position.epoch, text)
        if position is not None and position.epoch == hello.epoch:
            next_seq = position.seq + 1
            next_row = position.rows if position.seq or _counts_from(hello, position) else 0
        elif position is not None and _counts_from(hello, position):
            next_row = position.rows_behind_cursor  # rows that a former run of it has sent
        return Receiver(
            session,
            self.schema.row_bytes,
            choose(hello.capabilities),
            self.max_batch_bytes,
            max_fragment_bytes=self.max_fragment_bytes,
            next_seq=next_seq,
            next_row=next_row,
            counts_rows=ROW_COUNTS in hello.capabilities,
        )

    def welcome(
        self, hello: Hello, receiver: Receiver, position: Position | None, window_bytes: int
    ) -> Welcome:
        """The session begins; the receiver must have resumed."""
        ack = receiver.ack(window_bytes, CREDIT_BATCHES)
        told = ROW_COUNTS in hello.capabilities
        return Welcome(
            PROTOCOL_VERSION,
            receiver.session,
            receiver.next_seq,
            None if position is None else position.cursor,
            ack.credit_bytes,
            ack.credit_batches,
            self.ack_level,
            self.max_fragment_bytes,
            self.max_batch_bytes,
            self.when_full,
            receiver.checksum_kind,
            self.heartbeat_seconds,
            receiver.next_row if told else None,
            _rows_behind_cursor(hello, receiver, position) if told else None,
        )


def began_elsewhere(hello: Hello, position: Position | None) -> Began | None:
    """Where a run began, if that is not at our newest cursor and none of its batches is here.

    Then it was another service that said so, or this one before it went back to an older state.
    """
    began = Began.said_in(hello.capabilities)
    if began is None or began.cursor is None:
        return None
    if position is None:
        return began
    is_here = position.epoch == hello.epoch and position.seq > 0
    return None if is_here or position.cursor == began.cursor else began


def goes_on_from_cursor(hello: Hello) -> bool:
    """Whether it is a run that leaves out what it is told to be here already."""
    return RESUMES in hello.capabilities or Began.said_in(hello.capabilities) is not None


def _counts_from(hello: Hello, position: Position) -> bool:
    """Whether the rows of a run of which no batch is here count from our newest cursor."""
    began = Began.said_in(hello.capabilities)
    if began is not None:
        return began.cursor == position.cursor
    return RESUMES in hello.capabilities or position.epoch == hello.epoch


def _rows_behind_cursor(hello: Hello, receiver: Receiver, position: Position | None) -> int:
    """As in WELCOME. The row numbers of a run begin at the cursor that a former run has left."""
    if position is None or position.epoch != hello.epoch:  # such as on a full disk
        return receiver.next_row
    return position.rows_behind_cursor


#: batches that may be under way at a time; bytes are the limit that matters
CREDIT_BATCHES = 4096
