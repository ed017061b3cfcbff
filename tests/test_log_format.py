"""The log's bytes against its page: golden files, an independent reader, and every flipped bit."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import msgpack
import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

import insitu
from insitu.errors import OperatorError
from insitu.schema import Schema
from insitu.stream.log.meta import pack_meta
from insitu.stream.log.record import Header, Kind, Record, decode_body, decode_meta, decode_whole
from insitu.stream.log.segment import read_segment_header, segment_name
from insitu.stream.log.segment_reader import SegmentReader
from insitu.stream.log.stream_log import StreamLog
from insitu.stream.log.tail import opened as opened_file
from insitu.stream.log.walk import LogWalk
from insitu.stream.stamp import Stamp, provenance
from logged import SCHEMA, batch, copied, counting_clock, opened, payload, stamp
from simulated_disk import SimulatedDisk

GOLDEN = Path(__file__).parent / "golden" / "log"


def _small_example(disk: SimulatedDisk) -> None:
    """The example of the page."""
    schema = Schema.of({"x": ("float32", (2,))})
    log = StreamLog(disk, schema, segment_bytes=400, clock=counting_clock())
    log.recover(0, print)
    row = np.zeros(4, "<f4")
    row[:2] = 1, 2
    log.append(Kind.BATCH, Stamp("p", 1, 1, None, 0, produced_at_ns=5), 1, payload=[row])
    log.append(Kind.END, None, 0)
    log.close()


def _large_example(disk: SimulatedDisk) -> None:
    """Every kind and every form of meta, over two segments, the second begun after a sync."""
    log, *_ = opened(disk, segment_bytes=1024)
    keep = np.arange(11) % 3 > 0
    numbers = np.arange(11) - 5
    log.append(
        Kind.BATCH,
        stamp(1, cursor="step 3", task="a", sample_ids=numbers, produced_at_ns=numbers, flags=2),
        11,
        keep=keep,
        payload=[payload(1, 4), payload(2, 7)],
    )
    log.append(Kind.PROBE, stamp(2, cursor=0.5, flags=np.arange(2)), 2, payload=[payload(3, 2)])
    log.sync()
    log.append(Kind.SKIP, stamp(3, cursor=-1), 4)
    log.append(Kind.REFUSE, stamp(4, cursor=None), 5)
    log.append(Kind.LEAVE, Stamp("camera", 0, 0, None, 0), 0)
    log.append(Kind.END, None, 0)
    log.append(Kind.REOPEN, None, 0)
    log.close()


EXAMPLES = {"small": _small_example, "large": _large_example}


def _written(name: str) -> bytes:
    """All segments of an example, one behind the other."""
    disk = SimulatedDisk(Random(0))
    EXAMPLES[name](disk)
    return b"".join(disk.bytes_of(each) for each in sorted(disk.names()))


def _dump(data: bytes) -> str:
    lines = (data[place : place + 16] for place in range(0, len(data), 16))
    return "".join(f"{line[:8].hex(' ')}  {line[8:].hex(' ')}\n" for line in lines)


@pytest.mark.parametrize("name", EXAMPLES)
def test_golden_bytes(name: str) -> None:
    assert _dump(_written(name)) == (GOLDEN / f"{name}.hex").read_text()


def test_the_page_shows_the_golden_bytes() -> None:
    page = (Path(insitu.__file__).parent / "docs" / "log.md").read_text()
    shown = [line.strip() for line in page.splitlines() if line.startswith("    ")]
    lines = _dump(_written("small")).splitlines()
    assert shown[-17:] == lines[:17]
    assert not any(bytes.fromhex("".join(lines[17:])))


def test_an_old_log_is_read_as_it_was_written() -> None:
    disk = SimulatedDisk(Random(0))
    data = bytes.fromhex((GOLDEN / "large.hex").read_text())
    disk.put(segment_name(1), data[:1024])
    disk.put(segment_name(4), data[1024:])
    log, found, recovery = opened(disk)
    assert [each.kind for each in found] == list(Kind)
    assert (recovery.torn_bytes, log.appended, log.segments) == (0, 7, 2)
    first = found[0]
    assert first.stamp is not None
    assert first.payload == payload(1, 4).tobytes() + payload(2, 7).tobytes()
    assert first.keep == [row % 3 > 0 for row in range(11)]
    assert list(first.stamp.sample_ids) == list(range(-5, 6))
    log.close()


# ---- the page, read without the library -----------------------------------------------------


def _xxh3(data: bytes, seed: int = 0) -> int:
    return xxhash.xxh3_64(data, seed=seed).intdigest()


def _padded(size: int) -> int:
    return (size + 15) // 16 * 16


def _segment(data: bytes) -> tuple[list[Any], int, int]:
    """The schema and whether it is reused, the seed, and where the first record begins."""
    assert data[:8] == b"INSITLOG"
    version, schema_bytes = struct.unpack_from("<II", data, 8)
    end = _padded(56 + schema_bytes)
    (seed,) = struct.unpack_from("<Q", data, 48)
    assert version == 3
    assert seed == _xxh3(data[:48] + data[56:end])
    return msgpack.unpackb(data[56 : 56 + schema_bytes]), seed, end


def _records(data: bytes) -> Iterator[tuple[int, int, int, list[Any] | None, bytes, int, int, int]]:
    """(kind, number, rows, meta, payload, synced, at_ns, chain)."""
    _, seed, begin = _segment(data)
    (chain,) = struct.unpack_from("<Q", data, 24)
    while data[begin : begin + 4] == b"ISRC":
        fields = struct.unpack_from("<4sIQIIQQQQqQ", data, begin)
        _, kind, number, rows, meta_bytes, payload_bytes, digest, before, synced, at, check = fields
        middle = begin + _padded(72 + meta_bytes)
        end = middle + _padded(payload_bytes)
        assert check == _xxh3(data[begin : begin + 64], seed)
        payload_xxh3 = struct.pack("<Q", _xxh3(data[middle:end]))
        assert digest == _xxh3(data[begin : begin + 32] + data[begin + 72 : middle] + payload_xxh3)
        assert before == chain
        chain = _xxh3(struct.pack("<QQ", chain, digest))
        meta = msgpack.unpackb(data[begin + 72 : begin + 72 + meta_bytes]) if meta_bytes else None
        payload_ = data[middle : middle + payload_bytes]
        yield kind, number, rows, meta, payload_, synced, at, chain
        begin = end
    assert not any(data[begin:])


def test_the_page_describes_the_bytes() -> None:
    data = _written("large")
    first, second = data[:1024], data[1024:]
    assert _segment(first)[0] == [[["x", "float32", [3]], ["y", "int64", []]], False]
    records = [*_records(first), *_records(second)]
    assert [record[0] for record in records] == [1, 2, 3, 4, 5, 6, 7]
    assert [record[1] for record in records] == [1, 2, 3, 4, 5, 6, 7]
    assert [record[2] for record in records] == [11, 2, 4, 5, 0, 0, 0]
    assert [record[5] for record in records] == [0, 0, 2, 2, 2, 2, 2]
    assert [record[6] for record in records] == list(range(1000, 1007))
    meta = records[0][3]
    assert meta is not None
    assert meta[:5] == ["camera", 1, 1, "step 3", 10]
    assert meta[5] == meta[7] == np.arange(-5, 6).astype("<i8").tobytes()
    assert (meta[6], meta[8]) == ("a", 2)
    assert meta[9] == bytes([0b10110110, 0b00000101])
    assert records[5][3] is records[6][3] is None
    disk = SimulatedDisk(Random(0))
    EXAMPLES["large"](disk)
    log, found, _ = opened(disk)
    assert [each.chain for each in found] == [record[7] for record in records]
    log.close()


# ---- what does not depend on time or place ---------------------------------------------------


def test_the_xxh3_of_a_payload_need_not_be_computed_again() -> None:
    written = []
    for known in (None, _xxh3(payload(1, 4).tobytes() + payload(2, 7).tobytes())):
        disk = SimulatedDisk(Random(0))
        log, *_ = opened(disk)
        parts = [payload(1, 4), payload(2, 7)]
        log.append(Kind.BATCH, stamp(1), 11, payload=parts, payload_xxh3=known)
        log.close()
        written.append(disk.bytes_of(segment_name(1)))
    assert written[0] == written[1]


def test_an_xxh3_that_is_not_the_payloads_is_found() -> None:
    disk = SimulatedDisk(Random(0))
    log, *_ = opened(disk)
    log.append(Kind.BATCH, stamp(1), 11, payload=[payload(1, 11)], payload_xxh3=1)
    log.close()
    _, found, recovery = opened(disk)
    assert (found, recovery.torn_reason) == ([], "record 1 does not match its digest")


def test_the_chain_tells_what_was_recorded_and_nothing_else() -> None:
    chains = []
    for size, start_ns, often in ((1024, 0, False), (4096, 10**18, True)):
        log, *_ = opened(
            SimulatedDisk(Random(0)), segment_bytes=size, clock=counting_clock(start_ns)
        )
        for value in range(1, 20):
            batch(log, value)
            if often:
                log.sync()
        chains.append(log.chain)
        log.close()
    assert chains[0] == chains[1]
    log, *_ = opened(SimulatedDisk(Random(0)))
    for value in range(1, 20):
        batch(log, value + (value == 19))
    assert log.chain != chains[0]
    log.close()


def test_rows_that_look_like_records_are_taken_for_none() -> None:
    """A torn record whose payload holds a whole log, with promises in it."""
    inner = SimulatedDisk(Random(0))
    log, *_ = opened(inner, segment_bytes=4096)
    for value in range(1, 6):
        batch(log, value)
        log.sync()
    log.close()
    forged = inner.bytes_of(segment_name(1))
    disk = SimulatedDisk(Random(0))
    log, *_ = opened(disk, segment_bytes=1 << 16, clock=counting_clock(77))
    rows = len(forged) // SCHEMA.row_bytes
    log.append(Kind.BATCH, stamp(1), rows, payload=[forged])
    log.close()
    disk.damaged(segment_name(1))[100:110] = bytes(10)
    log, found, recovery = opened(disk)
    assert (found, log.appended, recovery.torn_bytes > 800) == ([], 0, True)
    log.close()


# ---- every flipped bit -----------------------------------------------------------------------


def _log_of_two_segments() -> SimulatedDisk:
    disk = SimulatedDisk(Random(0))
    log, *_ = opened(disk, segment_bytes=416)
    for value in range(1, 4):
        batch(log, value)
        log.sync()
    assert log.segments == 2
    log.close()
    return disk


def _is_found(disk: SimulatedDisk) -> bool:
    try:
        walk = LogWalk(disk)
        count = sum(1 for _ in walk.records())
    except OperatorError:
        return True
    found = bool(walk.flaws or walk.torn_reason)
    assert found or count == 3
    return found


def test_every_flipped_bit_is_found() -> None:
    disk = _log_of_two_segments()
    assert not _is_found(disk)
    missed = []
    for name in disk.names():
        data = disk.damaged(name)
        for bit in range(8 * len(data)):
            data[bit // 8] ^= 1 << bit % 8
            if not _is_found(disk):
                missed.append((name, bit))
            data[bit // 8] ^= 1 << bit % 8
    assert missed == []
    assert not _is_found(disk)


def test_damage_in_the_middle_hides_nothing_behind_it() -> None:
    disk = _log_of_two_segments()
    data = disk.damaged(segment_name(1))
    end = len(data.rstrip(b"\0"))
    data[end - 200] ^= 1  # in the rows of record 1
    walk = LogWalk(disk)
    assert [record.number for record in walk.records()] == [2, 3]
    assert walk.flaws == ["record 1 does not match its digest"]


@given(st.binary(max_size=600), st.integers(1, 3))
@settings(max_examples=100, deadline=None)
def test_any_file_under_a_segments_name_is_read_without_a_crash(data: bytes, first: int) -> None:
    disk = SimulatedDisk(Random(0))
    log, *_ = opened(disk, segment_bytes=1024)
    batch(log, 1)
    log.close()
    disk.put(segment_name(first), data)
    with suppress(OperatorError):
        for record in LogWalk(disk).records():
            copied(record)
    with suppress(OperatorError):
        opened(disk, cut_damage=True)[0].close()


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_whatever_happens_to_the_bytes_only_what_was_written_is_found(data: st.DataObject) -> None:
    disk = SimulatedDisk(Random(0))
    log, *_ = opened(disk, segment_bytes=1024)
    for value in range(1, 10):
        batch(log, value, rows=1 + value % 3)
        if value % 4 == 0:
            log.sync()
    log.close()
    _, whole, _ = opened(disk)
    for _ in range(data.draw(st.integers(1, 4))):
        content = disk.damaged(data.draw(st.sampled_from(sorted(disk.names()))))
        begin = data.draw(st.integers(0, len(content)))
        other = data.draw(st.binary(max_size=40) | st.just(bytes(300)))
        content[begin : begin + len(other)] = other[: len(content) - begin]
    with suppress(OperatorError):
        walk = LogWalk(disk)
        seen = [copied(record) for record in walk.records()]
        assert all(each == whole[each.number - 1] for each in seen)
        assert len(seen) == 9 or walk.flaws or walk.torn_reason
    with suppress(OperatorError):
        log, found, _ = opened(disk, cut_damage=data.draw(st.booleans()))
        assert found == whole[: len(found)]
        assert batch(log, 99) == len(found) + 1
        log.close()


_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text()
    | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=12) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


@given(_ANYTHING | st.lists(_ANYTHING, min_size=10, max_size=10), st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_meta_is_a_stamp_or_is_refused(content: Any, rows: int) -> None:
    packed = memoryview(msgpack.packb(content))
    header = Header(Kind.SKIP, 1, rows, len(packed), 0, 0, 0, 0, 0)
    record = decode_meta(header, packed, memoryview(b""))
    if isinstance(record, Record):
        assert record.stamp is not None
        provenance(record.stamp, rows)
        pack_meta(record.stamp, rows, record.keep)
    else:
        assert "meta that cannot be read" in record


if __name__ == "__main__":
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for each in EXAMPLES:
        (GOLDEN / f"{each}.hex").write_text(_dump(_written(each)))


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_the_short_way_to_a_record_finds_what_the_long_one_finds(data: st.DataObject) -> None:
    disk = SimulatedDisk(Random(0))
    log, *_ = opened(disk, segment_bytes=1024)
    for value in range(1, 4):
        batch(log, value)
    log.append(Kind.END, None, 0)
    log.close()
    content = disk.damaged(segment_name(1))
    for _ in range(data.draw(st.integers(0, 2))):
        place = data.draw(st.integers(0, len(content.rstrip(b"\0")) - 1))
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    with opened_file(disk, segment_name(1)) as file:
        header = read_segment_header(file)
        if isinstance(header, str):
            return
        reader, whole = SegmentReader(file, header), memoryview(bytes(content))
        place, chain, number = header.size_bytes, 0, 1
        while True:
            short = decode_whole(
                whole,
                place,
                seed=header.seed,
                number=number,
                chain=chain,
                row_bytes=SCHEMA.row_bytes,
            )
            long = _the_long_way(reader, whole)
            assert (short is None) == (long is None)
            if short is None or long is None:
                return
            assert copied(short) == copied(long)
            assert short.header == long.header
            place, chain, number = reader.offset_bytes, short.chain, number + 1


def _the_long_way(reader: SegmentReader, whole: memoryview) -> Record | None:
    header = reader.peek()
    if header is None:
        return None
    place = reader.offset_bytes
    record = decode_body(header, whole[place : place + header.record_bytes])
    reader.skip(header)
    return None if isinstance(record, str) else record
