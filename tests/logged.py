"""Logs for tests: a small schema, a clock that counts, and records that are easy to tell apart."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from insitu.schema import Schema
from insitu.stream.log.disk import Disk
from insitu.stream.log.record import Kind, Record
from insitu.stream.log.recovery import Recovery
from insitu.stream.log.stream_log import StreamLog
from insitu.stream.stamp import Stamp

SCHEMA = Schema.of({"x": ("float32", (3,)), "y": ("int64", ())})


def counting_clock(start_ns: int = 1_000) -> Callable[[], int]:
    """A clock that goes on by one at every look."""
    return itertools.count(start_ns).__next__


def payload(value: int, rows: int) -> np.ndarray:
    """The bytes of some rows, another pattern for each value."""
    size = rows * SCHEMA.row_bytes
    return ((np.arange(size) * (2 * value + 1) + value) % 251).astype(np.uint8)


def stamp(seq: int, producer_id: str = "camera", **options: Any) -> Stamp:
    """A stamp of a batch; its first row follows from nothing but the number."""
    return Stamp(producer_id, 1, seq, options.pop("cursor", seq), seq * 10, **options)


def batch(log: StreamLog, value: int, rows: int = 2) -> int:
    """Append a batch that is told by `value`."""
    return log.append(Kind.BATCH, stamp(value), rows, payload=[payload(value, rows)])


@dataclass
class Found:
    """What a record said, copied."""

    number: int
    kind: Kind
    stamp: Stamp | None
    rows: int
    keep: Any
    payload: bytes
    chain: int


def copied(record: Record) -> Found:
    """A record that outlives the next one."""
    keep = None if record.keep is None else record.keep.tolist()
    payload_bytes = bytes(record.payload)
    return Found(
        record.number, record.kind, record.stamp, record.rows, keep, payload_bytes, record.chain
    )


def opened(
    disk: Disk, after_record: int = 0, *, segment_bytes: int = 4096, **options: Any
) -> tuple[StreamLog, list[Found], Recovery]:
    """A log that was recovered, the records behind `after_record`, and what recovery says."""
    how = {key: options.pop(key) for key in ("after_chain", "cut_damage") if key in options}
    clock = options.pop("clock", None) or counting_clock()
    log = StreamLog(disk, SCHEMA, segment_bytes=segment_bytes, clock=clock, **options)
    found: list[Found] = []
    recovery = log.recover(after_record, lambda record: found.append(copied(record)), **how)
    return log, found, recovery
