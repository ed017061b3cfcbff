"""Reading the records of one segment, and whatever is left of them where it is damaged."""

from __future__ import annotations

from insitu.stream.log.disk import File
from insitu.stream.log.record import (
    HEADER_BYTES,
    MAGIC,
    Header,
    Record,
    decode_body,
    decode_header,
    decode_meta,
    payload_bytes,
)
from insitu.stream.log.segment import SegmentHeader, read_bytes, read_segment_header
from insitu.stream.log.tail import find, used_bytes


class SegmentReader:
    """Reads the records of one segment in order, and verifies each.

    Args:
        file: closed by whoever opened it.
        header: of the segment; the chain and the numbers of its records are checked against it.

    Attributes:
        first_record: of the segment.
        offset_bytes: where the next record begins.
        number: of the last record that was read, or passed over.
        chain: after it.
        seed: of the segment.
        flaw: in words, why there was no further record; empty at zeros or the end of the file.
            Where an earlier segment left something, its records stand there and are no flaw: see
            `written_behind`.
    """

    def __init__(self, file: File, header: SegmentHeader) -> None:
        self.offset_bytes = header.size_bytes
        self.first_record = header.first_record
        self.number = header.first_record - 1
        self.chain = header.chain_before
        self.flaw = ""
        self._file = file
        self._size_bytes = file.size_bytes
        self._row_bytes = header.schema.row_bytes
        self.seed = header.seed
        self._is_reused = header.is_reused
        self._next_bytes = 0  # of the record that was peeked at
        self._head = memoryview(bytearray(HEADER_BYTES))
        self._body = memoryview(bytearray())

    def peek(self) -> Header | None:
        """The header of the next record, or None: see `flaw`."""
        count = self._file.read_into(self.offset_bytes, self._head)
        head = bytes(self._head[:count])
        header = decode_header(head, self.seed)
        if isinstance(header, str):
            self.flaw = header if any(head) else ""
            return None
        self._next_bytes = header.record_bytes
        self.flaw = self._misplaced(header)
        return None if self.flaw else header

    def skip(self, header: Header) -> None:
        """Pass over the record that was peeked at, its body unread."""
        self.offset_bytes += self._next_bytes
        self.number, self.chain = header.number, header.chain

    def next(self) -> Record | None:
        """The next record, verified to the last bit, or None: see `flaw`.

        Its payload is valid until the next call.
        """
        header = self.peek()
        if header is None:
            return None
        size_bytes = self._next_bytes - HEADER_BYTES
        if len(self._body) < size_bytes:
            self._body = memoryview(bytearray(size_bytes))
        body = self._body[:size_bytes]
        if self._file.read_into(self.offset_bytes + HEADER_BYTES, body) < size_bytes:
            self.flaw = f"the file ends within record {header.number}"
            return None
        record = decode_body(header, body)
        if isinstance(record, str):
            self.flaw = record
            return None
        self.skip(header)
        return record

    def glance(self) -> Record | None:
        """The next record without its payload; only its header is verified."""
        header = self.peek()
        if header is None:
            return None
        meta = read_bytes(self._file, self.offset_bytes + HEADER_BYTES, header.meta_bytes)
        record = decode_meta(header, memoryview(meta), memoryview(b""))
        if isinstance(record, str):
            self.flaw = record
            return None
        self.skip(header)
        return record

    def headers_behind(self) -> list[Header]:
        """Of all records behind the last good one, in whatever state they are."""
        return [header for _, header in self._found_behind()]

    def written_behind(self) -> int:
        """How many bytes behind the last good record were written since the segment was begun.

        In a file that was a segment before this is told by headers of records alone: theirs are
        checked with the seed of this segment, so nothing that was left there is taken for one.
        """
        if not self._is_reused:
            return used_bytes(self._file, self.offset_bytes)
        ends = (place + header.record_bytes for place, header in self._found_behind())
        return min(max(ends, default=self.offset_bytes), self._size_bytes) - self.offset_bytes

    def _found_behind(self) -> list[tuple[int, Header]]:
        return [
            (place, header)
            for place, data in find(self._file, MAGIC, self.offset_bytes, HEADER_BYTES)
            if not isinstance(header := decode_header(data, self.seed), str)
        ]

    def _misplaced(self, header: Header) -> str:
        if header.number != self.number + 1:
            return f"record {header.number} stands where {self.number + 1} should"
        if header.chain_before != self.chain:
            return f"record {header.number} does not continue the chain"
        end = self.offset_bytes + self._next_bytes
        if end > self._size_bytes:
            return f"the file ends within record {header.number}"
        if header.payload_bytes != payload_bytes(header.kind, header.rows, self._row_bytes):
            return f"record {header.number} has {header.payload_bytes} bytes for its rows"
        return ""


def written_bytes(file: File, first_record: int) -> int:
    """How much of a file was written since it is the segment that begins with this record."""
    header = read_segment_header(file)
    if isinstance(header, str):
        return used_bytes(file, 0)
    if header.first_record != first_record:
        return 0  # renamed, and nothing that was written to it since got to the disk
    reader = SegmentReader(file, header)
    return reader.offset_bytes + reader.written_behind()
