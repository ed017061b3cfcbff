"""The messages of the protocol; `codec` makes bytes of them and back.

A message is a msgpack array `[kind, ...]` in a frame of its own; DATA has a second frame with
the raw bytes of its fragment. The fields of the classes below, in their order, are the elements
of the array; their annotations are the checks that `decode` makes. Fields with a default may be
left out at the end. `insitu/docs/wire.md` gives the meaning of every field.
"""

from __future__ import annotations

import typing
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, ClassVar

from insitu.errors import ProducerError
from insitu.schema import Schema
from insitu.wire.values import (
    Check,
    Count,
    CursorValue,
    Hash,
    MaybeCount,
    Name,
    Number,
    Payload,
    Piece,
    Rows,
    SampleIds,
    Seconds,
    Text,
    Texts,
    Token,
    Truth,
    Word,
)

PROTOCOL_VERSION = 1


class WireError(ProducerError):
    """Bytes that are not a message of this protocol."""


class VersionError(WireError):
    """A HELLO or WELCOME of another protocol version; `version` is the peer's."""

    def __init__(self, version: int) -> None:
        self.version = version
        super().__init__(
            f"the peer speaks protocol version {version}",
            allowed=f"version {PROTOCOL_VERSION}",
            consequence="the connection is refused",
            remedy="install the same release of insitu on both sides",
        )


class RefusalCode(StrEnum):
    """Why a HELLO is refused."""

    VERSION = "version"
    STREAM = "stream"
    SCHEMA = "schema"
    TOKEN = "token"
    IDENTITY = "identity"
    RATE = "rate"
    LIMIT = "limit"
    DRAINING = "draining"
    MALFORMED = "malformed"


class NackCode(StrEnum):
    """Why a batch is not taken. The first three ask for it again, the rest settle it."""

    CORRUPT = "corrupt"
    GAP = "gap"
    FULL = "full"
    SCHEMA = "schema"
    NON_FINITE = "non_finite"
    RANGE = "range"
    TOO_BIG = "too_big"
    MALFORMED = "malformed"


#: The codes after which the producer sends the batch again.
RESEND_CODES = frozenset({NackCode.CORRUPT, NackCode.GAP, NackCode.FULL})


def _member(enum: type[StrEnum]) -> Check:
    values = frozenset(member.value for member in enum)
    return Check(lambda v: type(v) is str and v in values, ", ".join(sorted(values)))


class AckLevel(StrEnum):
    """What the producer waits for before it lets go of a batch."""

    RECEIVED = "received"
    LOGGED = "logged"
    DURABLE = "durable"


_Schema = Annotated[
    Schema, Check(lambda v: isinstance(v, list), "[[name, dtype, [extent, ...]], ...]")
]


@dataclass(frozen=True, slots=True)
class Hello:
    """Producer to service: who I am, what I send, and the oldest batch that I still hold."""

    KIND: ClassVar[int] = 1
    version: Word
    producer_id: Name
    epoch: Count
    stream: Name
    schema: _Schema
    schema_crc32: Word
    capabilities: Texts
    host_id: Name
    boot_id: Name
    token: Token = field(repr=False)
    first_available_seq: Number
    first_available_row: Count


@dataclass(frozen=True, slots=True)
class Welcome:
    """Service to producer: the session begins with batch `next_seq`."""

    KIND: ClassVar[int] = 2
    version: Word
    session: Count
    next_seq: Number
    last_cursor: CursorValue
    credit_bytes: Count
    credit_batches: Count
    ack_level: Annotated[str, _member(AckLevel)]
    max_fragment_bytes: Number
    max_batch_bytes: Number
    when_full: Name
    checksum: Name
    heartbeat_seconds: Seconds
    next_row: MaybeCount = None
    rows_behind_cursor: MaybeCount = None


@dataclass(frozen=True, slots=True)
class Refused:
    """Service to producer: no session; `retry` says whether asking again later makes sense."""

    KIND: ClassVar[int] = 3
    code: Annotated[str, _member(RefusalCode)]
    text: Text
    retry: Truth


@dataclass(frozen=True, slots=True)
class Data:
    """Producer to service: one fragment of a batch. `payload` is the second frame."""

    KIND: ClassVar[int] = 4
    session: Count
    seq: Number
    fragment: Word
    fragments: Number
    rows: Rows
    first_row: Count
    payload_bytes: Number
    offset: Count
    checksum: Hash
    produced_at_ns: Count
    cursor: CursorValue
    task: Name
    sample_ids: SampleIds
    flags: Word
    piece: Piece
    payload: Payload


@dataclass(frozen=True, slots=True)
class Ack:
    """Service to producer: cumulative sequence numbers, and absolute credit for this session."""

    KIND: ClassVar[int] = 5
    session: Count
    accepted: Count
    durable: Count
    trained: Count
    credit_bytes: Count
    credit_batches: Count


@dataclass(frozen=True, slots=True)
class Nack:
    """Service to producer: batch `seq`, or `rows` of it, is not taken; or `resend` it."""

    KIND: ClassVar[int] = 6
    session: Count
    seq: Number
    code: Annotated[str, _member(NackCode)]
    text: Text
    resend: Truth
    rows: MaybeCount = None


@dataclass(frozen=True, slots=True)
class Ping:
    """Producer to service: alive, what the next batch needs, and the producer's own books."""

    KIND: ClassVar[int] = 7
    session: Count
    stamp_ns: Count
    needed_bytes: Count
    pushed_rows: Count
    dropped_rows: Count
    blocked_seconds: Seconds


@dataclass(frozen=True, slots=True)
class Pong:
    """Service to producer: every message up to the PING with this stamp has been handled."""

    KIND: ClassVar[int] = 8
    session: Count
    stamp_ns: Count


@dataclass(frozen=True, slots=True)
class Drain:
    """Service to producer: no further new batches, please; what is in flight is finished."""

    KIND: ClassVar[int] = 9
    session: Count
    text: Text


@dataclass(frozen=True, slots=True)
class Fenced:
    """Service to producer: a newer epoch of this producer id is here; stop for good."""

    KIND: ClassVar[int] = 10
    epoch: Count
    text: Text


@dataclass(frozen=True, slots=True)
class NoSession:
    """Service to producer: this session is unknown here; say HELLO."""

    KIND: ClassVar[int] = 11
    session: Count


@dataclass(frozen=True, slots=True)
class Bye:
    """Producer to service: the end of the stream; the service answers with the same."""

    KIND: ClassVar[int] = 12
    session: Count
    last_seq: Count
    pushed_rows: Count
    dropped_rows: Count
    blocked_seconds: Seconds


Message = (
    Hello | Welcome | Refused | Data | Ack | Nack | Ping | Pong | Drain | Fenced | NoSession | Bye
)
MESSAGES: tuple[type[Message], ...] = typing.get_args(Message)
