"""The stream log without its checks, its syncs, its cuts; the audit without its rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from insitu.stream.log.errors import LogDamaged
from insitu.stream.log.record import HEADER_BYTES as _HEADER_BYTES
from insitu.stream.log.record import Header, Record, decode_header, decode_meta
from insitu.stream.log.segment import SegmentHeader, segment_name
from insitu.stream.log.tail import used_bytes
from insitu.stream.ring import Reservation
from mutations.base import Mutation, constantly

LOG = "tests/test_log.py"
CRASHES = "tests/test_log_crashes.py"
FORMAT = "tests/test_log_format.py"
REUSE = "tests/test_log_reuse.py"
RING = "tests/test_stream_ring.py"
AUDIT = "tests/test_stream_audit.py"
COMMAND = "tests/test_log_command.py"


def _undigested(header: Header, data: memoryview) -> Record | str:
    begin, meta_end = header.meta_end, _HEADER_BYTES + header.meta_bytes
    payload = data[begin : begin + header.payload_bytes]
    return decode_meta(header, data[_HEADER_BYTES:meta_end], payload)


def _unseeded(data: Any, seed: int | None) -> Header | str:
    return decode_header(data, None)


def _sync_names_only(self: Any, files: Sequence[Any], *, names: bool) -> None:
    if names:
        self._disk.sync_names()


def _sync_files_only(self: Any, files: Sequence[Any], *, names: bool) -> None:
    for file in files:
        file.sync()


def _sync_and_go_on(self: Any, files: Sequence[Any], *, names: bool) -> None:
    try:
        for file in files:
            file.sync()
        self._sync_found()
        self._disk.sync_names()
    except OSError:
        pass


def _misfit_is_damage(self: Any, header: SegmentHeader, first: int) -> str:
    if header.first_record != first:
        raise LogDamaged("no crash renames a segment")
    return ""


def _records_only(records: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return records.astype(np.uint64)


def _write_back_in_silence(self: Reservation) -> None:
    xxh3 = self.xxh3
    _write_back(self)
    self.xxh3 = xxh3


_write_back = Reservation.write_back
_SYNC = "insitu.stream.log.unsynced:Unsynced._sync"

MUTATIONS = {
    "log: digests are not checked": Mutation(
        "insitu.stream.log.segment_reader:decode_body", _undigested, LOG
    ),
    "log: headers are not checked": Mutation(
        "insitu.stream.log.segment_reader:decode_header", _unseeded, FORMAT
    ),
    "log: segments need not continue the chain": Mutation(
        "insitu.stream.log.recovery:Scan._misfit", constantly(""), LOG
    ),
    "log: data is not synced": Mutation(_SYNC, _sync_names_only, CRASHES),
    "log: names are not synced": Mutation(_SYNC, _sync_files_only, CRASHES),
    "log: what an earlier life wrote is not synced": Mutation(
        "insitu.stream.log.unsynced:Unsynced._sync_found", constantly(None), CRASHES
    ),
    "log: a failed sync is forgotten": Mutation(_SYNC, _sync_and_go_on, CRASHES),
    "log: the cache is believed at the start": Mutation(
        "insitu.stream.log.recovery:Scan._open",
        lambda self, first: self._disk.open(segment_name(first)),
        CRASHES,
    ),
    "log: a torn tail is not cut": Mutation(
        "insitu.stream.log.recovery:cut", constantly(None), LOG
    ),
    "log: a failed write is not cleared": Mutation(
        "insitu.stream.log.segments:cut", constantly(None), CRASHES
    ),
    "log: damage behind is taken for a tear": Mutation(
        "insitu.stream.log.recovery:promised_behind", constantly(0), LOG
    ),
    "log: a damaged segment is taken for a tear": Mutation(
        "insitu.stream.log.recovery:promised_by", constantly(0), LOG
    ),
    "log: released while it is needed": Mutation(
        "insitu.stream.log.segments:Segments._count_unneeded",
        lambda self, upto, now: len(self._all) - 1,
        LOG,
    ),
    "log: a file is written over before its old name is gone": Mutation(
        "insitu.stream.log.unsynced:Unsynced.sync_names", constantly(None), REUSE
    ),
    "log: what an earlier segment left is believed": Mutation(
        "insitu.stream.log.segment_reader:decode_header", _unseeded, REUSE
    ),
    "log: what an earlier segment left is taken for a tear": Mutation(
        "insitu.stream.log.segment_reader:SegmentReader.written_behind",
        lambda self: used_bytes(self._file, self.offset_bytes),
        REUSE,
    ),
    "log: a file of an earlier use is taken for damage": Mutation(
        "insitu.stream.log.recovery:Scan._misfit", _misfit_is_damage, REUSE
    ),
    "log: what was read ahead is believed": Mutation(
        "insitu.stream.log.segment_reader:SegmentReader.forget", constantly(None), CRASHES
    ),
    "log: the xxh3 of a batch that was mended is believed": Mutation(
        "insitu.stream.ring:Reservation.write_back", _write_back_in_silence, RING
    ),
    "audit: rows of a record are alike": Mutation(
        "insitu.stream.audit:row_numbers", _records_only, AUDIT
    ),
    "log verify: rows are not audited": Mutation(
        "insitu_service.stream_log.check:_compare_rows", constantly(None), COMMAND
    ),
    "log verify: which rows does not matter": Mutation(
        "insitu_service.stream_log.check:row_sum", constantly(0), COMMAND
    ),
    "log verify: batches need not follow each other": Mutation(
        "insitu.stream.log.books:LogBooks._flaw", constantly(None), COMMAND
    ),
}
