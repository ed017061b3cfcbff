"""What stands behind the last good record, and getting rid of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from insitu.stream.log.disk import Disk, File

_CHUNK_BYTES = 1 << 20
_ZEROS = bytes(_CHUNK_BYTES)


@contextmanager
def opened(disk: Disk, name: str) -> Iterator[File]:
    """A file, for a moment."""
    file = disk.open(name)
    try:
        yield file
    finally:
        file.close()


def used_bytes(file: File, offset_bytes: int) -> int:
    """How far behind an offset the last byte lies that is not zero; 0 when there is none."""
    used, position, chunk = 0, offset_bytes, bytearray(_CHUNK_BYTES)
    while count := file.read_into(position, memoryview(chunk)):
        data = chunk if count == _CHUNK_BYTES else chunk[:count]
        if data != _ZEROS[:count]:
            used = position - offset_bytes + len(data.rstrip(b"\0"))
        position += count
    return used


def find(
    file: File, word: bytes, offset_bytes: int, size_bytes: int
) -> Iterator[tuple[int, bytes]]:
    """Every place behind an offset where a word stands, with so many bytes from there on."""
    chunk = memoryview(bytearray(_CHUNK_BYTES + size_bytes))
    position = offset_bytes
    while count := file.read_into(position, chunk):
        data = bytes(chunk[:count])
        place = data.find(word)
        while 0 <= place < _CHUNK_BYTES:
            yield position + place, data[place : place + size_bytes]
            place = data.find(word, place + 1)
        position += _CHUNK_BYTES


def cut(file: File, offset_bytes: int) -> None:
    """Make a file end in zeros from an offset on; not yet for good, see `File.sync`.

    On a full disk the file may end there: room is reserved again with the next segment.
    """
    try:
        file.clear_from(offset_bytes)
    except OSError:
        if file.size_bytes > offset_bytes:
            raise
