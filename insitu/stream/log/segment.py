"""A segment: one preallocated file of the log, a header and then records, without gaps.

    header, 56 bytes, little-endian, then in msgpack the stream's schema and whether the file was
    a segment before; zeros to the next multiple of 16; records; zeros to the end of the file, or
    what is left of the earlier segment

Its name is the number of its first record. It ends where the next segment begins, or, the newest
one, where no record of its own stands.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgpack
from xxhash import xxh3_64_intdigest

from insitu.errors import ProducerError
from insitu.schema import Field, Schema
from insitu.stream.log.disk import File
from insitu.stream.log.errors import LogMismatch
from insitu.stream.log.record import ALIGNMENT_BYTES

FORMAT_VERSION = 3
SEGMENT_MAGIC = b"INSITLOG"
#: a segment that was allocated ahead and has no records yet
PREPARED_NAME = "prepared.log"
_NAME = re.compile(r"segment-(\d{20})\.log")
_HEADER = struct.Struct("<8sIIQQQqQ")
# magic, format version, bytes behind, first record, chain before, synced, created at, checksum
_CHECKSUM_OFFSET = _HEADER.size - 8
_SCHEMA_LIMIT_BYTES = 4 * 1024 * 1024


def segment_name(first_record: int) -> str:
    """The name of the file; names sort as records do.

    Example:
        >>> segment_name(129), first_record_of("segment-00000000000000000129.log")
        ('segment-00000000000000000129.log', 129)
    """
    return f"segment-{first_record:020d}.log"


def first_record_of(name: str) -> int | None:
    """The number in a segment's name; None for any other file."""
    match = _NAME.fullmatch(name)
    return None if match is None else int(match[1])


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """What stands at the beginning of a segment.

    Args:
        chain_before: the chain after the record before the first.
        synced: the newest record that was known to be durable when the segment was begun.
        created_at_ns: wall clock of the service.
        is_reused: the file was another segment before: behind the records stands what is left
            of that one, else zeros.
        version: of the format; nothing else is read from a version that is not ours.
    """

    schema: Schema
    first_record: int
    chain_before: int
    synced: int
    created_at_ns: int
    is_reused: bool = False
    version: int = FORMAT_VERSION

    @property
    def size_bytes(self) -> int:
        """Where the first record begins."""
        return len(self.encode())

    @property
    def seed(self) -> int:
        """Of the checksums in the headers of this segment's records: its own checksum."""
        return int.from_bytes(self.encode()[_CHECKSUM_OFFSET : _HEADER.size], "little")

    def encode(self) -> bytes:
        """The bytes of the header."""
        schema: bytes = msgpack.packb([self.schema.as_wire(), self.is_reused])
        fixed = _HEADER.pack(
            SEGMENT_MAGIC, self.version, len(schema), self.first_record, self.chain_before,
            self.synced, self.created_at_ns, 0,
        )  # fmt: skip
        schema += bytes(-(len(fixed) + len(schema)) % ALIGNMENT_BYTES)
        checksum = xxh3_64_intdigest(fixed[:_CHECKSUM_OFFSET] + schema)
        return fixed[:_CHECKSUM_OFFSET] + checksum.to_bytes(8, "little") + schema


def read_segment_header(file: File) -> SegmentHeader | str:
    """The header of a segment's file, or in words why there is none."""
    fixed = read_bytes(file, 0, _HEADER.size)
    if len(fixed) < _HEADER.size:
        return f"the file ends after {len(fixed)} bytes, within its header"
    magic, version, schema_bytes, first, chain, synced, created, checksum = _HEADER.unpack(fixed)
    if magic != SEGMENT_MAGIC:
        return "it does not begin as a segment"
    if schema_bytes > _SCHEMA_LIMIT_BYTES:
        return "its header does not match its checksum"
    padded = schema_bytes + -(_HEADER.size + schema_bytes) % ALIGNMENT_BYTES
    schema = read_bytes(file, _HEADER.size, padded)
    if checksum != xxh3_64_intdigest(fixed[:_CHECKSUM_OFFSET] + schema):
        return "its header does not match its checksum"
    if version != FORMAT_VERSION:
        return SegmentHeader(_NO_SCHEMA, first, chain, synced, created, version=version)
    try:
        fields, is_reused = msgpack.unpackb(schema[:schema_bytes])
        header = SegmentHeader(_schema(fields), first, chain, synced, created, bool(is_reused))
    except (ProducerError, ValueError, TypeError, msgpack.UnpackException) as error:
        return f"its schema cannot be read: {error}"
    return header


@dataclass
class Segment:
    """A segment that the log keeps: its first record, its file's size and when it was begun."""

    first_record: int
    size_bytes: int
    created_at_ns: int

    @property
    def name(self) -> str:
        return segment_name(self.first_record)


def check_header(header: SegmentHeader, schema: Schema, where: str) -> None:
    """See that a log can be read and continued by us.

    Raises:
        LogMismatch: it has another format version or another schema.
    """
    if header.version != FORMAT_VERSION:
        raise LogMismatch(
            f"{where} has format version {header.version}",
            allowed=str(FORMAT_VERSION),
            consequence="nothing of the log is read",
            remedy="read it with the insitu that wrote it",
        )
    if difference := schema.difference(header.schema):
        raise LogMismatch(
            f"{where} is of a stream with another schema: {difference}",
            consequence="nothing of the log is read",
            remedy="give this stream a directory of its own",
        )


def read_bytes(file: File, offset_bytes: int, size_bytes: int) -> bytes:
    """So many bytes of a file; fewer where it ends."""
    target = bytearray(size_bytes)
    return bytes(target[: file.read_into(offset_bytes, memoryview(target))])


def _schema(fields: Sequence[Any]) -> Schema:
    return Schema(tuple(Field(name, dtype, tuple(shape)) for name, dtype, shape in fields))


_NO_SCHEMA = Schema.of({"unknown": ("uint8", ())})
