"""The send window and the session: merging, cutting, credit, going back, heartbeat, policies."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from insitu.errors import ProducerError
from insitu.schema import Schema
from insitu.wire.batches import Label
from insitu.wire.marks import RowMarks
from insitu.wire.messages import (
    Ack,
    Bye,
    Data,
    Drain,
    Fenced,
    Nack,
    NoSession,
    Pong,
    Refused,
    Welcome,
)
from insitu.wire.rows import infer_schema, pack_rows, unpack_rows
from insitu.wire.sender import SendWindow
from insitu.wire.session import Identity, ProducerSession, SessionState
from insitu.wire.when_full import POLICIES, when_full

SCHEMA = Schema.of({"n": ("int64", ())})
ROW = SCHEMA.row_bytes


def welcome(**change: object) -> Welcome:
    fields: dict[str, object] = {
        "version": 1, "session": 5, "next_seq": 1, "last_cursor": None,
        "credit_bytes": 1 << 30, "credit_batches": 1 << 20, "ack_level": "received",
        "max_fragment_bytes": 1 << 20, "max_batch_bytes": 8 << 20, "when_full": "block",
        "checksum": "crc32", "heartbeat_seconds": 1.0,
    }  # fmt: skip
    return Welcome(**(fields | change))  # type: ignore[arg-type]


def window_with(capacity_rows: int = 64) -> SendWindow:
    return SendWindow(SCHEMA, capacity_rows * ROW)


def push(
    window: SendWindow, rows: int, task: str = "", cursor: int | None = None, flags: int = 0
) -> bool:
    spans = window.reserve(rows)
    if spans is None:
        return False
    done = window.next_row
    for span in spans:
        span.slab.fields[0][span.start : span.start + span.rows] = np.arange(done, done + span.rows)
        done += span.rows
    window.commit(spans, Label(task, flags), produced_at_ns=9, cursor=cursor)
    return True


def sent(window: SendWindow) -> list[Data]:
    """All that may be sent now."""
    found = []
    while (fragment := window.next_fragment()) is not None:
        found.append(fragment.data())
    return found


def numbers(data: Data) -> list[int]:
    values: list[int] = unpack_rows(SCHEMA, bytes(data.payload))["n"].tolist()
    return values


def ack(accepted: int, credit_bytes: int = 0, credit_batches: int = 0, **more: int) -> Ack:
    return Ack(
        5, accepted, more.get("durable", accepted), more.get("trained", 0), credit_bytes,
        credit_batches,
    )  # fmt: skip


def test_small_pushes_merge_while_nobody_sends() -> None:
    window = window_with()
    for step in range(5):
        push(window, 2, cursor=step)
    window.open(welcome())
    (data,) = sent(window)
    assert (data.seq, data.rows, data.first_row, data.cursor) == (1, 10, 0, 4)
    assert numbers(data) == list(range(10))


def test_a_push_is_sent_alone_when_the_sender_is_idle() -> None:
    window = window_with()
    window.open(welcome())
    for expected in range(3):
        push(window, 1)
        assert [numbers(data) for data in sent(window)] == [[expected]]


def test_other_labels_do_not_merge() -> None:
    window = window_with()
    for task, flags in (("a", 0), ("a", 0), ("b", 0), ("b", 1)):
        push(window, 1, task, flags=flags)
    window.open(welcome())
    assert [(d.task, d.flags, d.rows) for d in sent(window)] == [
        ("a", 0, 2),
        ("b", 0, 1),
        ("b", 1, 1),
    ]


def test_a_batch_is_cut_between_rows_to_the_largest_allowed_and_to_credit() -> None:
    window = window_with()
    push(window, 10, cursor=10)
    window.open(welcome(max_batch_bytes=4 * ROW + 3, credit_bytes=6 * ROW))
    first = sent(window)
    assert [(d.rows, d.cursor) for d in first] == [(4, None)]  # 2 more would be a sliver
    window.acknowledge(ack(1))
    assert [d.rows for d in sent(window)] == [2]  # nothing in flight: better than standing still
    window.acknowledge(ack(2, credit_bytes=64 * ROW))
    rest = sent(window)
    assert [(d.seq, d.rows, d.cursor) for d in rest] == [(3, 4, 10)]
    assert [n for d in first + rest for n in numbers(d)] == [0, 1, 2, 3, 6, 7, 8, 9]


def test_a_batch_is_cut_behind_a_cursor_if_there_is_one() -> None:
    """So that what the service knows of the newest cursor is exact."""
    window = window_with(128)
    for rows, cursor in ((3, 3), (4, 7), (6, 13), (2, None)):
        push(window, rows, cursor=cursor)
    window.open(welcome(max_batch_bytes=9 * ROW, credit_bytes=12 * ROW))
    assert [(d.rows, d.cursor) for d in sent(window)] == [(7, 7)]
    window.acknowledge(ack(1, credit_bytes=12 * ROW))
    assert [(d.rows, d.cursor) for d in sent(window)] == [(5, None)]  # there is no credit for more
    window.acknowledge(ack(2, credit_bytes=99 * ROW))
    rest = sent(window)
    assert [(d.rows, d.cursor, numbers(d)[0]) for d in rest] == [(1, 13, 12), (2, None, 13)]


def test_credit_is_a_position_and_resends_do_not_use_it() -> None:
    window = window_with()
    for task in "abcd":
        push(window, 4, task)
    window.open(welcome(credit_bytes=8 * ROW))
    assert [d.seq for d in sent(window)] == [1, 2]
    for _ in range(3):
        window.refuse(Nack(5, 1, "corrupt", "", True))
        assert [d.seq for d in sent(window)] == [1, 2]
    window.acknowledge(ack(0, credit_bytes=12 * ROW))
    assert [d.seq for d in sent(window)] == [3]
    window.acknowledge(ack(0, credit_bytes=3 * ROW))  # an old ack, overtaken
    assert sent(window) == []
    assert window.needed_bytes() == 4 * ROW


def test_credit_in_batches() -> None:
    window = window_with()
    for task in "abc":
        push(window, 1, task)
    window.open(welcome(credit_batches=2))
    assert [d.seq for d in sent(window)] == [1, 2]
    window.acknowledge(ack(0, credit_batches=3))
    assert [d.seq for d in sent(window)] == [3]


def test_fragments_and_going_back_in_the_middle() -> None:
    window = window_with()
    push(window, 4)
    window.open(welcome(max_fragment_bytes=24))
    pieces = sent(window)
    assert [(d.fragment, d.fragments, d.offset, len(d.payload)) for d in pieces] == [
        (0, 3, 0, 24),
        (1, 3, 24, 24),
        (2, 3, 48, 16),
    ]
    window.refuse(Nack(5, 1, "corrupt", "", True))
    assert window.next_fragment() is not None
    window.refuse(Nack(5, 1, "corrupt", "", True))
    assert [d.fragment for d in sent(window)] == [0, 1, 2]


def test_a_new_session_sends_what_was_not_accepted_and_may_cut_it_anew() -> None:
    window = window_with()
    for task in "abc":
        push(window, 4, task)
    window.open(welcome())
    assert len(sent(window)) == 3
    window.suspend()
    assert window.next_fragment() is None
    assert window.first_available == (1, 0)
    window.open(welcome(session=6, next_seq=2, max_batch_bytes=2 * ROW))
    again = sent(window)
    assert [(d.session, d.seq, d.first_row, d.rows) for d in again] == [
        (6, 2, 4, 2), (6, 3, 6, 2), (6, 4, 8, 2), (6, 5, 10, 2),
    ]  # fmt: skip
    assert window.books.acknowledged_rows == 4


@pytest.mark.parametrize(("next_row", "first_row"), [(None, 8), (8, 8), (6, 6), (12, 12)])
@pytest.mark.parametrize("level", ["logged", "durable"])
def test_where_a_service_tells_rows_they_decide(
    level: str, next_row: int | None, first_row: int
) -> None:
    """What was not accepted may come back in another cut: from the log of a service that died."""
    window = window_with()
    window.open(welcome(ack_level=level))
    for task in "abcd":
        push(window, 4, task)
    sent(window)
    window.open(welcome(session=6, next_seq=3, next_row=next_row, ack_level=level))
    again = sent(window)
    assert (again[0].seq, again[0].first_row) == (3, first_row)
    window.acknowledge(ack(window.sent_seq))
    assert (window.books.acknowledged_rows, window.books.pending_rows) == (16, 0)
    assert window.row_of(2) == first_row


def test_acks_of_what_was_never_sent_are_not_believed() -> None:
    window = window_with()
    push(window, 4)
    window.open(welcome())
    sent(window)
    push(window, 4)
    window.acknowledge(ack(99))
    assert window.accepted == 1
    assert window.books.pending_rows == 4


@pytest.mark.parametrize("level", ["received", "logged", "durable"])
def test_a_batch_is_let_go_of_at_the_level_that_the_service_promises(level: str) -> None:
    window = window_with()
    push(window, 4)
    window.open(welcome(ack_level=level))
    sent(window)
    window.acknowledge(ack(1, durable=0))
    assert window.books.pending_rows == (4 if level == "durable" else 0)
    window.acknowledge(ack(1, durable=1))
    assert window.books.pending_rows == 0


def test_what_is_accepted_and_not_durable_survives_a_lost_connection_unsent() -> None:
    window = window_with()
    window.open(welcome(ack_level="durable"))
    for task in "abc":
        push(window, 4, task)
    sent(window)
    window.refuse(Nack(5, 1, "range", "label 11", False))
    window.acknowledge(ack(1, durable=0))
    window.suspend()
    window.open(welcome(session=6, next_seq=3, ack_level="durable"))
    assert [d.seq for d in sent(window)] == [3], "accepted batches do not go out again"
    assert window.books.pending_rows == 12
    assert window.first_available == (1, 0), "the service may come back from before batch 1"
    window.acknowledge(ack(3, durable=1))
    assert (window.books.quarantined_rows, window.books.pending_rows) == (4, 8)
    window.suspend()
    window.open(welcome(session=7, next_seq=2, ack_level="durable"))  # power was lost
    assert [(d.seq, d.first_row) for d in sent(window)] == [(2, 4), (3, 8)]
    window.acknowledge(ack(3, durable=3))
    assert (window.books.acknowledged_rows, window.books.pending_rows) == (8, 0)


def test_positions_are_told_in_rows_and_may_go_back_with_the_service() -> None:
    window = window_with()
    window.open(welcome())
    for task in "abc":
        push(window, 4, task)
    sent(window)
    window.acknowledge(ack(3, durable=2, trained=1))
    window.acknowledge(ack(3, durable=1, trained=0))  # an old ack, overtaken
    assert (window.accepted, window.durable, window.trained) == (3, 2, 1)
    assert [window.row_of(seq) for seq in (1, 2, 3)] == [4, 8, 12]
    assert window.trained_row == 4
    window.open(welcome(session=6, next_seq=4))
    window.acknowledge(ack(3, durable=3, trained=0))
    assert (window.durable, window.trained, window.trained_row) == (3, 0, 0)
    window.acknowledge(ack(3, durable=9, trained=9))
    assert (window.durable, window.trained) == (3, 3), "nothing is durable before it is accepted"


@given(st.lists(st.integers(1, 5), min_size=1, max_size=40), st.data())
def test_row_marks_are_the_running_sum_of_rows(sizes: list[int], data: st.DataObject) -> None:
    marks, ends = RowMarks(), [0]
    for rows in sizes:
        ends.append(ends[-1] + rows)
        assert marks.add(ends[-1]) == len(ends) - 1
    next_seq = data.draw(st.integers(1, len(ends) + 3))
    marks.renumber(next_seq)
    taken = ends[:next_seq]
    assert marks.last_seq == next_seq - 1
    assert marks.last_row == taken[-1]
    for seq in range(len(taken) if next_seq <= len(ends) else 0):
        assert marks.row_of(seq) == taken[seq]
        if seq:
            assert marks.seq_of(taken[seq] - 1) == seq
    assert marks.seq_of(taken[-1]) == next_seq
    assert marks.add(99999) == next_seq


def test_row_marks_forget_what_is_trained_and_are_bounded() -> None:
    marks = RowMarks()
    for row in range(1, 40_001):
        marks.add(row)
    marks.forget(30_000, 5_000)
    assert marks.row_of(40_000) == 40_000
    assert marks.row_of(4_999) is None
    assert len(marks.state()[2]) < 20_000
    marks.forget(40_000, 40_000)
    assert marks.state() == [40_000, 40_000, []]


def test_quarantined_rows_are_told_apart() -> None:
    window = window_with()
    push(window, 3, "a")
    push(window, 2, "b")
    window.open(welcome())
    sent(window)
    window.refuse(Nack(5, 1, "non_finite", "NaN", False))
    window.acknowledge(ack(2))
    assert (window.books.quarantined_rows, window.books.acknowledged_rows) == (3, 2)


@pytest.mark.parametrize(("told", "bad"), [(None, 5), (1, 1), (5, 5), (99, 5)])
def test_rows_of_a_batch_are_told_apart(told: int | None, bad: int) -> None:
    """No number means that the service is an older one, which does not say."""
    window = window_with()
    window.open(welcome())
    push(window, 5)
    assert len(sent(window)) == 1
    window.refuse(Nack(5, 1, "range", "", False, told))
    window.acknowledge(ack(1, credit_bytes=1 << 30, credit_batches=99))
    books = window.books
    assert (books.quarantined_rows, books.acknowledged_rows) == (bad, 5 - bad)
    assert (books.quarantined_batches, books.acknowledged_batches) == (1, int(bad < 5))
    assert books.acknowledged_bytes == (5 - bad) * ROW
    assert books.pending_rows == 0


def test_full_waits_for_an_ack() -> None:
    window = window_with()
    push(window, 3)
    window.open(welcome())
    sent(window)
    window.refuse(Nack(5, 1, "full", "", True))
    assert sent(window) == []
    window.acknowledge(ack(0))
    assert [d.seq for d in sent(window)] == [1]


def test_drops_leave_a_gap_in_rows_and_none_in_the_sequence() -> None:
    window = window_with(16)
    policy = when_full("drop_oldest")
    window.open(welcome())
    push(window, 4, "sent")
    sent(window)
    for task in "abcdef":
        spans = policy.reserve(window, 4)
        assert spans is not None
        window.commit(spans, Label(task), produced_at_ns=1)
    window.acknowledge(ack(1))
    later = sent(window)
    assert [d.seq for d in later] == list(range(2, 2 + len(later)))
    assert later[0].first_row == 4 + window.books.dropped_rows["oldest"]


def test_a_batch_in_flight_is_never_dropped() -> None:
    window = window_with(16)
    window.open(welcome())
    for task in "abcd":
        assert push(window, 4, task)
    sent(window)
    assert when_full("drop_oldest").reserve(window, 4) is None
    assert window.books.pending_rows == 16


def test_thin_keeps_every_kth_push_and_recovers() -> None:
    window = window_with(16)
    policy = when_full("thin")
    kept = []
    for _ in range(100):
        spans = policy.reserve(window, 4)
        kept.append(spans is not None)
        if spans is None:
            window.drop_push("thinned", 4)
        else:
            window.commit(spans, Label(), produced_at_ns=1)
    assert kept[:4] == [True] * 4
    assert sum(kept) == 4
    window.open(welcome())
    for _ in range(300):
        spans = policy.reserve(window, 1)
        if spans is not None:
            window.commit(spans, Label(), produced_at_ns=1)
        sent(window)
        window.acknowledge(ack(window.sent_seq))
    assert policy.reserve(window, 1) is not None
    assert policy.reserve(window, 1) is not None, "the stride did not come back to 1"


def test_policies_by_name() -> None:
    assert set(POLICIES) == {"block", "drop_newest", "drop_oldest", "thin"}
    with pytest.raises(ProducerError, match=r"'dorp'.*drop_newest"):
        when_full("dorp")


def test_memory_is_used_again() -> None:
    window = window_with(16)
    window.open(welcome())
    seen = set()
    for _ in range(50):
        push(window, 3)
        for fragment in iter(window.next_fragment, None):
            seen.add(id(fragment.batch.slab))
        window.acknowledge(ack(window.sent_seq))
    assert len(seen) == 1


def test_an_abandoned_push_leaves_nothing() -> None:
    window = window_with(16)
    spans = window.reserve(16)
    assert spans is not None
    assert window.room_rows() == 0
    window.abandon(spans)
    assert window.room_rows() == 16
    assert window.books.pushed_rows == 0


def test_padding_stays_zero() -> None:
    schema = Schema.of({"a": ("uint8", (3,)), "b": ("uint8", ())})
    window = SendWindow(schema, 16 * schema.row_bytes)
    window.open(welcome())
    for _ in range(20):
        spans = window.reserve(3)
        assert spans is not None
        for span in spans:
            for field in span.slab.fields:
                field[span.start : span.start + span.rows] = 255
        window.commit(spans, Label(), produced_at_ns=1)
        for data in sent(window):
            assert (
                bytes(data.payload) == (b"\xff" * 3 + bytes(13) + b"\xff" + bytes(15)) * data.rows
            )
        window.acknowledge(ack(window.sent_seq))


# -- the session ---------------------------------------------------------------------------


def opened(window: SendWindow, **change: object) -> ProducerSession:
    session = ProducerSession(window, Identity("p", 100, "s"))
    assert session.wants_hello(0.0)
    session.hello(0.0)
    session.receive(welcome(**change), 0.0)
    assert session.state is SessionState.OPEN
    return session


def test_a_lost_tail_is_found_by_the_next_heartbeat() -> None:
    window = window_with()
    session = opened(window)
    push(window, 2, "a")
    push(window, 2, "b")
    assert [d.seq for d in sent(window)] == [1, 2]
    ping = session.ping(1.0)
    assert ping is not None
    session.receive(ack(1), 1.1)
    session.receive(Pong(5, ping.stamp_ns), 1.1)
    assert [d.seq for d in sent(window)] == [2]


def test_a_pong_says_nothing_of_what_was_sent_after_its_ping() -> None:
    window = window_with()
    session = opened(window)
    ping = session.ping(1.0)
    assert ping is not None
    push(window, 2)
    sent(window)
    session.receive(Pong(5, ping.stamp_ns), 1.1)
    assert sent(window) == []


def test_pings_at_each_heartbeat_and_once_when_credit_is_out() -> None:
    window = window_with()
    session = opened(window, credit_bytes=0)
    assert session.ping(0.5) is None
    push(window, 2)
    asking = session.ping(0.5)
    assert asking is not None
    assert asking.needed_bytes == 2 * ROW
    assert session.ping(0.6) is None
    assert session.ping(1.6) is not None
    assert session.due_seconds(2.0) == pytest.approx(0.6)


def test_pings_follow_each_answer_while_somebody_waits() -> None:
    session = opened(window_with())
    session.waiting = 1
    asking = session.ping(0.1)
    assert asking is not None
    assert session.ping(0.5) is None, "the service has not answered yet"
    session.receive(Pong(5, asking.stamp_ns), 0.6)
    assert 0 < session.due_seconds(0.6) < 0.1
    assert session.ping(0.7) is not None
    session.receive(Pong(5, asking.stamp_ns), 0.8)
    session.waiting = 0
    assert session.ping(0.9) is None
    assert session.ping(1.7) is not None


def test_silence_is_noticed() -> None:
    session = opened(window_with())
    assert not session.silent(4.9)
    assert session.silent(5.1)
    session.receive(ack(0), 5.0)
    assert not session.silent(9.0)


def test_no_session_says_hello_once() -> None:
    session = opened(window_with())
    assert session.receive(NoSession(5), 1.0)
    session.hello(1.0)
    assert not session.receive(NoSession(5), 1.0)


def test_a_welcome_from_before_what_was_greeted_with_is_of_another_session() -> None:
    window = window_with()
    session = opened(window)
    push(window, 4)
    sent(window)
    window.acknowledge(ack(1))
    assert session.receive(NoSession(5), 1.0)
    assert session.hello(1.0).first_available_seq == 2
    session.receive(welcome(), 1.1)  # the first one, once more
    assert session.state is SessionState.GREETING
    session.receive(welcome(session=6, next_seq=2), 1.2)
    assert session.state is SessionState.OPEN
    assert window.first_available == (2, 4)


def test_messages_of_another_session_are_ignored() -> None:
    window = window_with()
    session = opened(window)
    push(window, 2)
    sent(window)
    session.receive(Ack(4, 1, 1, 1, 0, 0), 1.0)
    session.receive(Nack(6, 1, "gap", "", True), 1.0)
    assert window.books.pending_rows == 2
    assert sent(window) == []


def test_refused_for_now_and_for_good() -> None:
    session = ProducerSession(window_with(), Identity("p", 100, "s"))
    session.hello(0.0)
    session.receive(Refused("draining", "later", True), 0.0)
    assert not session.wants_hello(0.1)
    assert session.wants_hello(1.0)
    session.hello(1.0)
    session.receive(Refused("schema", "no field 'y'", False), 1.0)
    assert session.state is SessionState.REFUSED
    assert "no field 'y'" in session.last_error
    assert not session.wants_hello(100.0)


def test_only_a_newer_epoch_fences() -> None:
    session = opened(window_with())
    session.receive(Fenced(100, "the same"), 1.0)
    assert session.state is SessionState.OPEN
    session.receive(Fenced(101, "newer"), 1.0)
    assert session.state is SessionState.FENCED


def test_drain_stops_new_batches_and_not_resends() -> None:
    window = window_with()
    session = opened(window)
    push(window, 2)
    sent(window)
    session.receive(Drain(5, "stopping"), 1.0)
    push(window, 2)
    assert sent(window) == []
    session.receive(Nack(5, 1, "corrupt", "", True), 1.0)
    assert [d.seq for d in sent(window)] == [1]


def test_bye_tells_the_books() -> None:
    window = window_with()
    session = opened(window)
    push(window, 2)
    sent(window)
    window.drop_push("newest", 3)
    assert session.bye() == Bye(5, 1, 5, 3, 0.0)


@given(st.data())
def test_rows_pack_and_unpack(data: st.DataObject) -> None:
    from wire_examples import schema as schemas

    schema = data.draw(schemas)
    rows = data.draw(st.integers(1, 4))
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    arrays = {}
    for field in schema.fields:
        size = rows * field.size_bytes
        raw = np.frombuffer(random.bytes(size), np.uint8)
        if field.dtype == "bool":
            raw = raw & 1
        arrays[field.name] = raw.view(field.numpy_dtype).reshape(rows, *field.shape)
    out = np.full(rows * schema.row_bytes, 255, np.uint8)
    pack_rows(schema, arrays, out)
    back = unpack_rows(schema, out.tobytes())
    for name, array in arrays.items():
        assert back[name].tobytes() == array.tobytes()
    named = {f.name: (f.dtype, arrays[f.name]) for f in schema.fields}
    assert infer_schema(named) == schema


def test_a_small_push_grows_the_last_batch_as_a_merge_would() -> None:
    """The short way and the long way leave the same batch and the same books."""
    ways = []
    for short in (False, True):
        window = SendWindow(SCHEMA, 1 << 20)
        for cursor in range(12):
            batch = window.growing(2, Label("task")) if short else None
            if batch is not None:
                window.grow(batch, 2, cursor, bytes(16))
            else:
                spans = window.reserve(2)
                assert spans is not None
                window.commit(
                    spans, Label("task"), produced_at_ns=1, cursor=cursor, sample_ids=bytes(16)
                )
        (last,) = window._unsent
        ways.append((last.rows, last.cursors, last.sample_ids, window.next_row, window.books))
    assert ways[0] == ways[1]


def test_a_push_of_another_label_or_without_room_does_not_grow_a_batch() -> None:
    window = SendWindow(SCHEMA, 1 << 20)
    assert window.growing(1, Label()) is None
    spans = window.reserve(2)
    assert spans is not None
    window.commit(spans, Label(), produced_at_ns=1)
    assert window.growing(1, Label()) is not None
    assert window.growing(1, Label("other")) is None
    assert window.growing(window.pool.slab_rows, Label()) is None
