"""One record of the stream log, to bytes and back.

    header, 72 bytes, little-endian, in the order of `_CONTENT`, `_ENVELOPE`, `_CHECKSUM`
    meta, msgpack; zeros up to the next multiple of 16 bytes of the record
    payload, the rows as they came; zeros up to the next multiple of 16

The *digest* covers what was recorded (first 32 bytes of the header, meta, and the xxh3 of the
payload, which its producer has computed already), the checksum of the header all that is before it.
The *chain* goes through the digests: two logs with the same chain after the same number hold the
same records, however they were written.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import msgpack
import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64, xxh3_64_intdigest

from insitu.errors import InternalError
from insitu.stream.log.disk import Bytes
from insitu.stream.log.meta import pack_meta, unpack_meta
from insitu.stream.stamp import Stamp

MAGIC = b"ISRC"
ALIGNMENT_BYTES = 16
_ALIGNED = -ALIGNMENT_BYTES  # a mask
_CONTENT = struct.Struct("<4sIQIIQ")  # magic, kind, number, rows, meta bytes, payload bytes
_ENVELOPE = struct.Struct("<QQQq")  # digest, chain before, synced, appended at
_CHECKSUM = struct.Struct("<Q")
_HEADER = struct.Struct("<4sIQIIQQQQqQ")  # all three
_LINK = struct.Struct("<QQ")
_PAYLOAD_XXH3 = struct.Struct("<Q")
_CHECKED_BYTES = _CONTENT.size + _ENVELOPE.size
HEADER_BYTES = _HEADER.size
#: far beyond what a batch can need: ids, times and flags of 65,536 rows
META_LIMIT_BYTES = 4 * 1024 * 1024


class Kind(IntEnum):
    """What a record says happened."""

    BATCH = 1  # rows for training
    PROBE = 2  # rows for the probes
    SKIP = 3  # a producer's position moved without rows
    REFUSE = 4  # rows were dropped because the buffer was full
    LEAVE = 5  # a producer left
    END = 6  # the stream is over
    REOPEN = 7  # the stream goes on


#: kinds that carry rows
WITH_ROWS = (Kind.BATCH, Kind.PROBE)  # tuples: the hash of a member is computed in Python
_WITHOUT_STAMP = (Kind.END, Kind.REOPEN)
_KINDS = {int(kind): kind for kind in Kind}


class Header(NamedTuple):
    """The header of a record.

    Args:
        number: of the record, from 1, without gaps.
        rows: that the record is about, with or without payload.
        meta_bytes, payload_bytes: without the zeros behind them.
        digest: xxh3-64 of what was recorded, the payload by its own.
        chain_before: the chain after the record before, 0 for the first.
        synced: the newest record that was known to be durable when this one was appended.
        appended_at_ns: wall clock of the service.
    """

    kind: Kind
    number: int
    rows: int
    meta_bytes: int
    payload_bytes: int
    digest: int
    chain_before: int
    synced: int
    appended_at_ns: int

    @property
    def chain(self) -> int:
        """After this record."""
        return linked(self.chain_before, self.digest)

    @property
    def meta_end(self) -> int:
        """Where the payload begins in the record."""
        return (HEADER_BYTES + self.meta_bytes + 15) & _ALIGNED

    @property
    def record_bytes(self) -> int:
        """All of the record, the zeros at its end included."""
        meta_end = (HEADER_BYTES + self.meta_bytes + 15) & _ALIGNED
        return meta_end + ((self.payload_bytes + 15) & _ALIGNED)


@dataclass(slots=True, eq=False)  # frozen ones take several times as long to make
class Record:
    """A record that was read and verified.

    Args:
        stamp: where the rows come from; of a LEAVE only `producer_id` means something; None for
            END and REOPEN. Times, ids and flags that were given by row are int64 arrays.
        keep: (rows,) bool, which rows passed the door; None for all.
        payload: the rows as bytes, empty where the kind has none. Valid until the next record is
            read: copy what has to last.
    """

    header: Header
    stamp: Stamp | None
    keep: npt.NDArray[np.bool_] | None
    payload: memoryview

    @property
    def kind(self) -> Kind:
        return self.header.kind

    @property
    def number(self) -> int:
        return self.header.number

    @property
    def rows(self) -> int:
        return self.header.rows

    @property
    def chain(self) -> int:
        """After this record."""
        return self.header.chain

    @property
    def appended_at_ns(self) -> int:
        return self.header.appended_at_ns


@dataclass(frozen=True, slots=True)
class Draft:
    """A record that has a digest, but no place yet.

    Args:
        content: the first 32 bytes of its header.
        body: what follows the header; the payload's buffers are the caller's own.
        digest: of both.
    """

    content: bytes
    body: list[Bytes]
    payload_bytes: int
    digest: int

    @property
    def size_bytes(self) -> int:
        """Of the whole record."""
        return HEADER_BYTES + sum(map(len, self.body))

    def buffers(self, *, chain: int, synced: int, appended_at_ns: int, seed: int) -> list[Bytes]:
        """All bytes, for a place behind `chain` in the segment with this seed."""
        checked = self.content + _ENVELOPE.pack(self.digest, chain, synced, appended_at_ns)
        header = checked + _CHECKSUM.pack(xxh3_64_intdigest(checked, seed))
        return [header, *self.body]


def payload_bytes(kind: Kind, rows: int, row_bytes: int) -> int:
    """How long the payload of a record is."""
    return rows * row_bytes if kind in WITH_ROWS else 0


def linked(chain: int, digest: int) -> int:
    """The chain after a record with this digest."""
    return xxh3_64_intdigest(_LINK.pack(chain, digest))


def encode(
    kind: Kind,
    stamp: Stamp | None,
    rows: int,
    *,
    number: int,
    keep: npt.NDArray[np.bool_] | None = None,
    payload: Sequence[Any] = (),
    payload_xxh3: int | None = None,
) -> Draft:
    """A record, but for what depends on its place.

    Args:
        payload: contiguous buffers, one behind the other; not copied.
        payload_xxh3: of all of them together, where it is known: a pass over them is saved.

    Raises:
        ProducerError: times, ids or flags are not one number of 64 bits for each row.
    """
    if (stamp is None) != (kind in _WITHOUT_STAMP):
        raise InternalError(f"a {kind.name} record with the stamp {stamp}")
    meta = b"" if stamp is None else pack_meta(stamp, rows, keep)
    parts = [memoryview(each).cast("B") for each in payload]
    size_bytes = sum(map(len, parts))
    content = _CONTENT.pack(MAGIC, kind, number, rows, len(meta), size_bytes)
    meta += bytes(-(HEADER_BYTES + len(meta)) % ALIGNMENT_BYTES)
    padding = bytes(-size_bytes % ALIGNMENT_BYTES)
    if padding:
        parts.append(memoryview(padding))
        payload_xxh3 = None
    if payload_xxh3 is None:
        payload_xxh3 = _xxh3(parts)
    digest = xxh3_64_intdigest(content + meta + _PAYLOAD_XXH3.pack(payload_xxh3))
    return Draft(content, [meta, *parts], size_bytes, digest)


def decode_header(data: Bytes, seed: int | None) -> Header | str:
    """The header in the first `HEADER_BYTES` of some bytes, or in words why there is none.

    Args:
        seed: of the segment. No producer knows it, so a payload cannot be made to look like a
            record. None when it is lost: then only the digest tells that this is a record.
    """
    if len(data) < HEADER_BYTES:
        return "the file ends within the header of a record"
    magic, number_of_kind, *fields, checksum = _HEADER.unpack_from(data)
    if magic != MAGIC:
        return "no record begins here"
    if seed is not None and checksum != xxh3_64_intdigest(data[:_CHECKED_BYTES], seed):
        return "the header of a record does not match its checksum"
    kind = _KINDS.get(number_of_kind)
    if kind is None or fields[2] > META_LIMIT_BYTES:
        return f"a record of unknown kind {number_of_kind} or with {fields[2]} bytes of meta"
    return Header(kind, *fields)


def decode_body(header: Header, data: memoryview) -> Record | str:
    """The record of a header and of all its bytes, or in words what is wrong with them."""
    begin = header.meta_end
    if _digest(data[: _CONTENT.size], data[HEADER_BYTES:begin], data[begin:]) != header.digest:
        return f"record {header.number} does not match its digest"
    payload = data[begin : begin + header.payload_bytes]
    return decode_meta(header, data[HEADER_BYTES : HEADER_BYTES + header.meta_bytes], payload)


def decode_whole(
    data: memoryview, begin: int, *, seed: int, number: int, chain: int, row_bytes: int
) -> Record | None:
    """The record that begins at a place of some bytes, if all of it is there and right.

    All that `decode_header`, `decode_body` and whoever reads a segment look at one by one, in one
    go: recovery reads hundreds of thousands of small records, and calls were half of the work.
    None says nothing: ask the others for the reason.
    """
    if begin + HEADER_BYTES > len(data):
        return None
    (
        magic, which, found_number, rows, meta_bytes, size_bytes,
        digest, chain_before, synced, appended_at_ns, checksum,
    ) = _HEADER.unpack_from(data, begin)  # fmt: skip
    body = begin + HEADER_BYTES
    middle = body + ((HEADER_BYTES + meta_bytes + 15) & _ALIGNED) - HEADER_BYTES
    end = middle + ((size_bytes + 15) & _ALIGNED)
    kind = _KINDS.get(which)
    if (
        magic != MAGIC or found_number != number or chain_before != chain or kind is None
        or meta_bytes > META_LIMIT_BYTES or size_bytes != payload_bytes(kind, rows, row_bytes)
        or end > len(data)
        or checksum != xxh3_64_intdigest(data[begin : begin + _CHECKED_BYTES], seed)
    ):  # fmt: skip
        return None
    content = data[begin : begin + _CONTENT.size]
    if _digest(content, data[body:middle], data[middle:end]) != digest:
        return None
    header = Header._make(
        (
            kind, number, rows, meta_bytes, size_bytes,
            digest, chain_before, synced, appended_at_ns,
        )
    )  # fmt: skip
    payload = data[middle : middle + size_bytes]
    record = decode_meta(header, data[body : body + meta_bytes], payload)
    return None if isinstance(record, str) else record


def decode_meta(header: Header, meta: memoryview, payload: memoryview) -> Record | str:
    """The record of a header and its two parts, or in words what is wrong with its meta."""
    if header.kind in _WITHOUT_STAMP:
        return Record(header, None, None, payload)
    try:
        stamp, keep = unpack_meta(meta, header.rows)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        return f"record {header.number} has meta that cannot be read: {error}"
    return Record(header, stamp, keep, payload)


def _digest(content: Bytes, meta: Bytes, payload: Bytes) -> int:
    """Of a record's parts, each with its padding."""
    payload_xxh3 = _PAYLOAD_XXH3.pack(xxh3_64_intdigest(payload))
    return xxh3_64_intdigest(b"".join((content, meta, payload_xxh3)))


def _xxh3(parts: Sequence[Bytes]) -> int:
    digest = xxh3_64()
    for part in parts:
        digest.update(part)
    return digest.intdigest()
