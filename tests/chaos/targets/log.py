"""Recovery of the stream log: two bytes of length, that many of one segment, then another one.

Once as it is, which checksums must catch; and once with every digest, chain and checksum put right
again, so that recovery meets records that nobody tore but that no service wrote.
"""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

from xxhash import xxh3_64_intdigest

from insitu.errors import OperatorError
from insitu.stream.log.disk import FileSystemDisk
from insitu.stream.log.record import (
    ALIGNMENT_BYTES,
    HEADER_BYTES,
    MAGIC,
    META_LIMIT_BYTES,
    Kind,
    linked,
)
from insitu.stream.log.segment import segment_name
from logged import batch, opened

_CONTENT = struct.Struct("<4sIQIIQ")
_SEGMENT_HEADER_BYTES = 56
_ROOT = Path(tempfile.mkdtemp(prefix="chaos-log-", dir="/dev/shm"))


def run(data: bytes) -> None:
    """A log that can be written on and read again, or an `OperatorError`."""
    size = int.from_bytes(data[:2], "little")
    segments = [each for each in (data[2 : 2 + size], data[2 + size :]) if each]
    _recover(segments)
    _recover([righted(each) for each in segments])


def _recover(segments: list[bytes]) -> None:
    for path in _ROOT.iterdir():
        path.unlink()
    for each in segments:
        first = int.from_bytes(each[16:24], "little") % 10**20
        (_ROOT / segment_name(first)).write_bytes(each)
    disk = FileSystemDisk(_ROOT)
    try:
        log, found, recovery = opened(disk)
        log.close()
    except OperatorError:
        return
    finally:
        disk.close()
    numbers = [record.number for record in found]
    assert numbers == list(range(recovery.first, recovery.appended + 1)), numbers
    _go_on(recovery.appended)


def _go_on(appended: int) -> None:
    """What recovery has left is a log: it takes a record, and has it when it is opened again."""
    disk = FileSystemDisk(_ROOT)
    log, _, _ = opened(disk)
    assert log.appended == appended
    number = batch(log, 1)
    log.sync()
    log.close()
    disk.close()
    disk = FileSystemDisk(_ROOT)
    log, found, recovery = opened(disk, number - 1)
    assert (recovery.appended, recovery.torn_bytes) == (number, 0)
    assert [record.kind for record in found] == [Kind.BATCH]
    log.close()
    disk.close()


def righted(segment: bytes) -> bytes:
    """The same bytes with the checksums, digests and chains that belong to them."""
    data = bytearray(segment)
    if len(data) < _SEGMENT_HEADER_BYTES:
        return segment
    schema_bytes = int.from_bytes(data[12:16], "little")
    end = _aligned(_SEGMENT_HEADER_BYTES + schema_bytes)
    seed = xxh3_64_intdigest(bytes(data[:48]) + bytes(data[_SEGMENT_HEADER_BYTES:end]))
    data[48:56] = seed.to_bytes(8, "little")
    chain = int.from_bytes(data[24:32], "little")
    while data[end : end + 4] == MAGIC and len(data) >= end + HEADER_BYTES:
        meta_bytes, payload_bytes = _CONTENT.unpack_from(data, end)[4:]
        size = _aligned(HEADER_BYTES + meta_bytes) + _aligned(payload_bytes)
        if meta_bytes > META_LIMIT_BYTES or end + size > len(data):
            break
        chain = _righted_record(data, end, size, chain, seed)
        end += size
    return bytes(data)


def _righted_record(data: bytearray, start: int, size: int, chain: int, seed: int) -> int:
    """The chain after the record that begins at `start`."""
    body = data[start : start + 32] + data[start + HEADER_BYTES : start + size]
    digest = xxh3_64_intdigest(bytes(body))
    data[start + 32 : start + 48] = struct.pack("<QQ", digest, chain)
    checked = bytes(data[start : start + HEADER_BYTES - 8])
    data[start + HEADER_BYTES - 8 : start + HEADER_BYTES] = struct.pack(
        "<Q", xxh3_64_intdigest(checked, seed)
    )
    return linked(chain, digest)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def packed(segments: list[bytes]) -> bytes:
    """Segments as this target reads them."""
    first, *rest = segments
    return len(first).to_bytes(2, "little") + b"".join([first, *rest])
