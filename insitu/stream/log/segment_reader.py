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
    decode_whole,
    payload_bytes,
)
from insitu.stream.log.segment import SegmentHeader, read_segment_header
from insitu.stream.log.tail import find, used_bytes

#: read at once beside what is asked for: ever more while records are small, since a call costs as
#: much as reading some of them; next to nothing beside large ones, whose bodies may not be wanted
_LEAST_AHEAD_BYTES = 1 << 12
_MOST_AHEAD_BYTES = 1 << 20


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
        self._window = memoryview(b"")  # bytes of the file, from a place on
        self._window_begin = 0
        self._ahead_bytes = _LEAST_AHEAD_BYTES
        self._memory = bytearray()

    def peek(self) -> Header | None:
        """The header of the next record, or None: see `flaw`."""
        head = self._look(HEADER_BYTES)
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
        begin = self.offset_bytes - self._window_begin
        found = decode_whole(
            self._window, begin,
            seed=self.seed, number=self.number + 1, chain=self.chain, row_bytes=self._row_bytes,
        )  # fmt: skip
        if found is not None:
            self._next_bytes, self.flaw = found.header.record_bytes, ""
            self.skip(found.header)
            return found
        header = self.peek()
        if header is None:
            return None
        data = self._look(self._next_bytes)
        if len(data) < self._next_bytes:
            self.flaw = f"the file ends within record {header.number}"
            return None
        record = decode_body(header, data)
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
        meta = self._look(HEADER_BYTES + header.meta_bytes)[HEADER_BYTES:]
        record = decode_meta(header, meta, memoryview(b""))
        if isinstance(record, str):
            self.flaw = record
            return None
        self.skip(header)
        return record

    def forget(self) -> None:
        """Read anew what was read ahead: it may have been written since."""
        self._window = self._window[:0]
        self._ahead_bytes = _LEAST_AHEAD_BYTES

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

    def _look(self, size_bytes: int) -> memoryview:
        """So many bytes from the present place on; fewer where the file ends."""
        begin = self.offset_bytes - self._window_begin
        if begin + size_bytes > len(self._window):
            self._read(max(size_bytes, self._ahead_bytes))
            begin = 0
        return self._window[begin : begin + size_bytes]

    def _read(self, size_bytes: int) -> None:
        if len(self._memory) < size_bytes:
            self._memory = bytearray(size_bytes)
        target = memoryview(self._memory)[:size_bytes]
        self._window = target[: self._file.read_into(self.offset_bytes, target)]
        self._window_begin = self.offset_bytes
        small = size_bytes <= _MOST_AHEAD_BYTES and self._next_bytes < _LEAST_AHEAD_BYTES * 16
        self._ahead_bytes = min(2 * size_bytes, _MOST_AHEAD_BYTES) if small else _LEAST_AHEAD_BYTES

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
