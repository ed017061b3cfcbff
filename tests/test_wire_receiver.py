"""The receiver: order, duplicates, gaps reported once, and headers that do not fit together."""

from __future__ import annotations

import zlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insitu.wire.codec import decode, encode
from insitu.wire.messages import Bye, Data, Hello, NackCode
from insitu.wire.receiver import Action, Duplicate, GoBack, Ignored, Receiver, Rejected, Write
from insitu.wire.values import MOST_COUNT
from wire_examples import SCHEMA, datas

ROW = 32


def receiver(**position: int) -> Receiver:
    return Receiver(7, ROW, "crc32", 10 * ROW, **position)


def data(seq: int, first_row: int, rows: int = 2, **change: object) -> Data:
    payload = bytes([seq % 256]) * (rows * ROW)
    message = Data(
        7, seq, 0, 1, rows, first_row, len(payload), 0, zlib.crc32(payload), 1, None, "", None, 0,
        None, payload,
    )  # fmt: skip
    return replace(message, **change)  # type: ignore[arg-type]


def fragments(message: Data, size: int) -> list[Data]:
    payload = bytes(message.payload)
    parts = [payload[i : i + size] for i in range(0, len(payload), size)]
    return [
        replace(
            message, fragment=i, fragments=len(parts), offset=i * size, checksum=zlib.crc32(part),
            payload=part,
        )
        for i, part in enumerate(parts)
    ]  # fmt: skip


def take(receiver: Receiver, message: Data) -> Action:
    action = receiver.receive(message)
    if isinstance(action, Write) and action.complete:
        receiver.settled()
    return action


def test_in_order() -> None:
    r = receiver()
    assert take(r, data(1, 0)) == Write(data(1, 0), True, True, 0)
    assert take(r, data(2, 5)) == Write(data(2, 5), True, True, 3)
    assert r.ack(100, 3).accepted == 2
    assert r.ack(100, 3).credit_bytes == 4 * ROW + 100
    assert r.ack(100, 3).credit_batches == 5


def test_a_refused_batch_of_absurd_size_leaves_an_ack_that_can_be_read() -> None:
    r = receiver()
    assert isinstance(take(r, data(1, 0, payload_bytes=MOST_COUNT)), Rejected)
    ack = r.ack(100, 3)
    assert (ack.accepted, ack.credit_bytes) == (1, MOST_COUNT)
    assert decode(encode(ack)) == ack


def test_duplicates_are_told_before_their_checksum_is_read() -> None:
    r = receiver()
    take(r, data(1, 0))
    assert take(r, data(1, 0, checksum=1)) == Duplicate()


def test_a_gap_is_reported_once() -> None:
    r = receiver()
    actions = [take(r, data(seq, 2 * seq)) for seq in range(2, 12)]
    assert isinstance(actions[0], GoBack)
    assert (actions[0].nack.seq, actions[0].nack.code) == (1, NackCode.GAP)
    assert actions[1:] == [Ignored()] * 9
    assert isinstance(take(r, data(1, 0)), Write)
    assert isinstance(take(r, data(3, 4)), GoBack)


def test_a_corrupt_fragment_asks_for_the_whole_batch() -> None:
    r = receiver()
    first, second, third = fragments(data(1, 0), 24)[:3]
    assert isinstance(take(r, first), Write)
    action = take(r, replace(second, checksum=5))
    assert isinstance(action, GoBack)
    assert (action.nack.seq, action.nack.code, action.nack.resend) == (1, "corrupt", True)
    assert take(r, third) == Ignored()
    again = [take(r, part) for part in fragments(data(1, 0), 24)]
    assert [(a.begin, a.complete) for a in again if isinstance(a, Write)] == [
        (True, False), (False, False), (False, True),
    ]  # fmt: skip


def test_fragments_in_another_order_go_back() -> None:
    r = receiver()
    first, second, third = fragments(data(1, 0), 24)
    take(r, first)
    assert isinstance(take(r, third), GoBack)
    assert take(r, second) == Ignored()


def test_a_batch_that_begins_again_begins_again() -> None:
    r = receiver()
    parts = fragments(data(1, 0), 24)
    take(r, parts[0])
    assert r.ack(0, 0).credit_bytes == 2 * ROW
    action = take(r, parts[0])
    assert isinstance(action, Write)
    assert action.begin
    assert r.ack(0, 0).credit_bytes == 2 * ROW


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (data(1, 0, rows=11), "too_big"),
        (data(1, 0, rows=3, payload_bytes=2 * ROW), "schema"),
        (data(1, 0, payload=bytes(8), checksum=zlib.crc32(bytes(8))), "malformed"),
        (data(1, 0, offset=8), "malformed"),
        (data(1, 0, fragments=2), "malformed"),
    ],
)
def test_headers_that_do_not_fit_settle_the_batch(message: Data, code: str) -> None:
    r = receiver()
    action = take(r, message)
    assert isinstance(action, Rejected)
    assert (action.nack.code, action.nack.resend, action.rows) == (code, False, message.rows)
    assert r.accepted == 1
    assert r.ack(0, 0).credit_bytes == message.payload_bytes
    assert isinstance(take(r, data(2, message.rows)), Write)


def test_rows_never_go_backwards() -> None:
    r = receiver(next_seq=5, next_row=100)
    assert isinstance(take(r, data(5, 99)), Rejected)


def test_fragments_that_change_their_batch_settle_it() -> None:
    r = receiver()
    first, second, _ = fragments(data(1, 0), 24)
    take(r, first)
    assert isinstance(take(r, replace(second, rows=5)), Rejected)


def test_no_room_asks_again_and_ignores_what_follows() -> None:
    r = receiver()
    assert isinstance(r.receive(data(1, 0)), Write)
    nack = r.no_room()
    assert (nack.seq, nack.code, nack.resend) == (1, "full", True)
    assert take(r, data(2, 2)) == Ignored()
    assert isinstance(take(r, data(1, 0)), Write)


def test_quarantine_settles() -> None:
    r = receiver()
    r.receive(data(1, 0))
    assert not r.quarantine(NackCode.NON_FINITE, "NaN in 'x'").resend
    assert r.accepted == 1


def test_credit_is_never_taken_back() -> None:
    r = receiver()
    assert r.ack(1000, 10).credit_bytes == 1000
    assert r.ack(10, 1).credit_bytes == 1000


def hello(seq: int, row: int) -> Hello:
    return Hello(1, "p", 1, "s", SCHEMA, SCHEMA.crc32, (), "", "", "", seq, row)


def test_what_the_producer_let_go_of_is_lost_and_counted() -> None:
    r = receiver(next_seq=6, next_row=50)
    assert r.resume(hello(11, 130)) == 80
    assert (r.next_seq, r.next_row) == (11, 130)
    assert r.ended(Bye(7, 11, 140, 10, 0.0)) == 10


def test_a_producer_that_still_has_everything_loses_nothing() -> None:
    r = receiver(next_seq=6, next_row=50)
    assert r.resume(hello(3, 20)) == 0
    assert r.next_seq == 6


@given(st.lists(datas().map(lambda d: replace(d, session=7, seq=d.seq % 4 + 1)), max_size=12))
def test_nothing_that_parses_makes_it_raise(messages: list[Data]) -> None:
    r = receiver()
    for message in messages:
        before = r.next_seq
        take(r, message)
        assert r.next_seq in (before, before + 1)
