"""A journal in two files that survives the death of its process at any instruction.

A file: 64 bytes of header (magic, generation, CRC-32), then records: length and CRC-32, both four
bytes, little-endian, and the operation in msgpack. The CRC covers the generation and the number
of the record, too, so what a former generation left in the file is not taken for a record. The
first record that is not right ends the journal: it was being written when the process died.

When a file is full, the state goes to the other file as its first record, and the header, written
last, makes that one valid. Both are preallocated, so a full disk is met at the beginning.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack

from insitu.errors import OperatorError
from insitu.wire.surviving import Operation

_MAGIC = b"insituJ1"
_HEADER = struct.Struct("<8sQI")
_HEADER_BYTES = 64
_RECORD = struct.Struct("<II")
_SEED = struct.Struct("<QQ")
#: of a file; more when the state needs it
LEAST_BYTES = 1 << 20
#: a new file is this much larger than the state in it, so that beginning anew is seldom
_SPARE = 4


class JournalFile:
    """The journal at two paths, of which the one with the higher generation counts."""

    def __init__(self, first: Path, second: Path) -> None:
        self._paths = (first, second)
        self._descriptor = -1
        self._generation = 0
        self._number = 0
        self._offset = 0
        self._capacity = 0

    def read(self) -> list[Operation] | None:
        """Every operation of the newest generation, or None if there is none.

        Raises:
            OperatorError: a file cannot be read, or has lost what a death could not take.
        """
        newest: tuple[int, bytes] | None = None
        for path in self._paths:
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise _unusable(path, error) from None
            generation = _generation(content)
            if generation and (newest is None or generation > newest[0]):
                newest = generation, content
        if newest is None:
            return None
        self._generation = newest[0]
        operations = list(_records(*newest))
        if not operations or operations[0][0] != "state":
            raise OperatorError(
                f"the window's journal {self._paths[0]} is damaged",
                consequence="what a former producer had not delivered cannot be sent again",
                remedy="remove the window's files; the simulation goes on from the service's "
                "last_cursor",
            )
        return operations

    def begin(self, state: Operation, least_bytes: int = 0) -> None:
        """Start a new generation with this state; the former one is valid until it is written.

        Raises:
            OperatorError: there is no room on the disk.
        """
        generation = self._generation + 1
        record = _packed(generation, 0, state)
        capacity = max(LEAST_BYTES, _SPARE * (len(record) + least_bytes))
        path = self._paths[generation % 2]
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unusable(path, error) from None
        try:
            os.pwrite(descriptor, bytes(_HEADER_BYTES), 0)
            os.ftruncate(descriptor, capacity)
            os.posix_fallocate(descriptor, 0, capacity)
            _write_all(descriptor, record, _HEADER_BYTES)
            head = _HEADER.pack(_MAGIC, generation, 0)
            checked = _HEADER.pack(_MAGIC, generation, zlib.crc32(head))
            _write_all(descriptor, checked, 0)
        except OSError as error:
            os.close(descriptor)
            raise _unusable(path, error) from None
        self.close()
        self._descriptor, self._generation, self._number = descriptor, generation, 1
        self._offset, self._capacity = _HEADER_BYTES + len(record), capacity

    def write(self, operation: Operation, state: Callable[[], Operation]) -> None:
        """Append one operation; `state` is asked when a new file must begin."""
        record = _packed(self._generation, self._number, operation)
        if self._offset + len(record) > self._capacity:
            self.begin(state(), len(record))
            record = _packed(self._generation, self._number, operation)
        try:
            _write_all(self._descriptor, record, self._offset)
        except OSError as error:
            raise _unusable(self._paths[self._generation % 2], error) from None
        self._number += 1
        self._offset += len(record)

    def close(self) -> None:
        """Let go of the file; it stays."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def remove(self) -> None:
        """The end of a window that has nothing left."""
        self.close()
        for path in self._paths:
            path.unlink(missing_ok=True)


def _packed(generation: int, number: int, operation: Operation) -> bytes:
    body: bytes = msgpack.packb(operation)
    return _RECORD.pack(len(body), _crc(generation, number, body)) + body


def _crc(generation: int, number: int, body: bytes | memoryview) -> int:
    return zlib.crc32(body, zlib.crc32(_SEED.pack(generation, number)))


def _generation(content: bytes) -> int:
    """Of a file; 0 when its header is not whole."""
    if len(content) < _HEADER_BYTES:
        return 0
    magic, generation, crc = _HEADER.unpack_from(content)
    head = _HEADER.pack(_MAGIC, generation, 0)
    return int(generation) if magic == _MAGIC and crc == zlib.crc32(head) else 0


def _records(generation: int, content: bytes) -> list[Any]:
    operations: list[Any] = []
    view, offset = memoryview(content), _HEADER_BYTES
    while offset + _RECORD.size <= len(content):
        size, crc = _RECORD.unpack_from(content, offset)
        body = view[offset + _RECORD.size : offset + _RECORD.size + size]
        if not size or len(body) < size or crc != _crc(generation, len(operations), body):
            break
        operations.append(msgpack.unpackb(body))
        offset += _RECORD.size + size
    return operations


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def _unusable(path: Path, error: OSError) -> OperatorError:
    return OperatorError(
        f"the window's file {path} cannot be used: {error.strerror}",
        consequence="nothing more is pushed; what was pushed stays in the file",
        remedy="make room or choose another window_directory, then start the producer again",
    )
