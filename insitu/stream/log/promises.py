"""What was known to be durable, told by what was written later.

Every record and every segment says which record was the newest one synced when it was written.
So something wrong before that one is damage, and no tear of a loss of power.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from insitu.schema import Schema
from insitu.stream.log.disk import Disk, File
from insitu.stream.log.record import HEADER_BYTES, Header, decode_body, decode_header
from insitu.stream.log.segment import SegmentHeader, read_bytes, read_segment_header, segment_name
from insitu.stream.log.segment_reader import SegmentReader
from insitu.stream.log.tail import opened


def promised_behind(reader: SegmentReader) -> int:
    """The newest record that something behind the reader's place in its segment tells of."""
    return max((header.synced for header in reader.headers_behind()), default=0)


def promised_by(disk: Disk, schema: Schema, firsts: Sequence[int]) -> int:
    """The same, told by the beginnings of segments, whether their headers are good or not."""
    newest = 0
    for first in firsts:
        with opened(disk, segment_name(first)) as file:
            header = read_segment_header(file)
            if not isinstance(header, str):
                newest = max(newest, header.synced)
            else:
                found = (record.synced for record in _records_without_header(file, schema))
                newest = max(newest, *found, 0)
    return newest


def _records_without_header(file: File, schema: Schema) -> Iterator[Header]:
    """Of the records in a segment whose own header is lost, from the first on, by their digests."""
    offset_bytes = SegmentHeader(schema, 0, 0, 0, 0).size_bytes
    while True:
        header = decode_header(read_bytes(file, offset_bytes, HEADER_BYTES), None)
        if isinstance(header, str) or offset_bytes + header.record_bytes > file.size_bytes:
            return
        data = read_bytes(file, offset_bytes, header.record_bytes)
        if isinstance(decode_body(header, memoryview(data)), str):
            return
        yield header
        offset_bytes += header.record_bytes
