"""The stream buffer in one thread: what comes out, when, and that the books balance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from insitu.batch import Column, SampleFlag
from insitu.errors import InternalError, OperatorError, ProducerError
from insitu.schema import Schema
from insitu.stream.buffer import StreamBuffer, WhenFull
from insitu.stream.draw import Draw
from insitu.stream.pacing import FixedPace, FreePace, Pace
from insitu.stream.policies import FIFO, FIRO, Policy, Reservoir
from insitu.stream.stamp import Position, Stamp
from insitu.stream.transfer import Transfer
from insitu.tasks import TaskLedger

SCHEMA = Schema.of({"x": ("float32", (3,)), "id": ("int64", ())})


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def buffer_of(
    policy: Policy,
    pace: Pace | None = None,
    *,
    when_full: WhenFull = "block",
    clock: Callable[[], float] | None = None,
    on_room: Callable[[], None] = lambda: None,
    most_tasks: int = 1000,
    seed: int = 0,
) -> StreamBuffer:
    return StreamBuffer(
        SCHEMA,
        policy.capacity_samples,
        policy,
        pace or FixedPace(),
        TaskLedger(most_tasks=most_tasks),
        when_full=when_full,
        generator=torch.Generator().manual_seed(seed),
        clock=clock or Clock(),
        on_room=on_room,
    )


class Source:
    """Pushes numbered samples of one producer; `x` is a function of the number."""

    def __init__(self, buffer: StreamBuffer, name: str = "a", start: int = 0) -> None:
        self.buffer, self.name, self.number, self.seq = buffer, name, start, 0

    def push(self, rows: int, task: str = "", flags: int = 0) -> bool:
        reservation = self.buffer.reserve(rows)
        if reservation is None:
            return False
        reservation.write(0, self.payload(rows))
        self.buffer.commit(reservation, self.stamp(rows, task, flags))
        return True

    def payload(self, rows: int) -> bytes:
        records = np.zeros(rows, SCHEMA.numpy_row)
        records["id"] = np.arange(self.number, self.number + rows)
        records["x"] = records["id"][:, None] * [1.0, 0.5, -2.0]
        return records.tobytes()

    def stamp(self, rows: int, task: str = "", flags: int = 0) -> Stamp:
        self.seq += 1
        first, self.number = self.number, self.number + rows
        return Stamp(self.name, 1, self.seq, f"step {self.seq}", first, 5, task, None, flags)


def ids(draw: Draw | None) -> list[int]:
    """The numbers of a draw's samples, after checking that the rest of each row belongs to it."""
    assert draw is not None
    assert draw.batch is not None
    numbers = draw.batch.fields["id"]
    expected = numbers[:, None] * torch.tensor([1.0, 0.5, -2.0])
    assert torch.equal(draw.batch.fields["x"], expected.float())
    assert torch.equal(draw.batch.column(Column.ROW), numbers)
    assert draw.batch.fresh_rows == draw.batch.rows
    return numbers.tolist()


def take(buffer: StreamBuffer, batch_size: int) -> list[int] | None:
    draw = buffer.draw(batch_size, 0)
    if draw is None:
        return None
    numbers = ids(draw)
    buffer.release(draw)
    return numbers


def assert_books_balance(buffer: StreamBuffer) -> None:
    status = buffer.snapshot()
    assert status.received == status.drawn_first + status.unseen_samples + status.dropped
    held = status.unseen_samples + status.seen_samples + status.reserved_samples
    assert status.free_samples + held == status.capacity_samples
    for task in status.tasks:
        assert task.arrived == task.trained + task.dropped + task.unseen
    assert sum(task.unseen for task in status.tasks) == status.unseen_samples
    assert sum(task.seen for task in status.tasks) == status.seen_samples
    assert sum(task.dropped for task in status.tasks) == status.dropped


def test_fifo_gives_every_sample_once_in_order_with_its_provenance() -> None:
    buffer = buffer_of(FIFO(16))
    a, b = Source(buffer, "a"), Source(buffer, "b", start=100)
    assert a.push(3)
    assert b.push(2, flags=SampleFlag.NO_REPLAY)
    assert take(buffer, 6) is None  # the fixed pace waits for a full batch
    assert a.push(1)
    draw = buffer.draw(6, 0)
    assert ids(draw) == [0, 1, 2, 100, 101, 3]
    assert draw is not None
    assert draw.batch is not None
    assert draw.batch.column(Column.PRODUCER).tolist() == [0, 0, 0, 1, 1, 0]
    assert draw.batch.column(Column.FLAGS).tolist() == [0, 0, 0, 2, 2, 0]
    assert draw.batch.column(Column.PRODUCED_AT_NS).tolist() == [5] * 6
    assert buffer.producers() == ("a", "b")
    assert buffer.positions() == {
        "a": Position(1, 2, 4, "step 2"),
        "b": Position(1, 1, 102, "step 1"),
    }
    assert_books_balance(buffer)


def test_slots_go_round_and_round() -> None:
    buffer = buffer_of(FIFO(7))
    source, out = Source(buffer), []
    for _ in range(40):
        assert source.push(3)
        out += take(buffer, 3) or []
    assert out == list(range(120))
    assert_books_balance(buffer)


def test_rows_are_scattered_when_free_slots_are() -> None:
    buffer = buffer_of(FIRO(40), seed=3)
    source, out = Source(buffer), []
    for _ in range(30):
        while source.push(13):
            pass
        out += take(buffer, 9) or []
    assert len(out) == len(set(out)) == 270
    assert_books_balance(buffer)


def test_a_task_is_trained_to_its_end_before_the_next_and_then_said_to_have_ended() -> None:
    buffer = buffer_of(FIFO(32))
    source = Source(buffer)
    source.push(5, "one")
    source.push(7, "two")
    assert take(buffer, 4) == [0, 1, 2, 3]
    draw = buffer.draw(4, 0)
    assert ids(draw) == [4]  # cut short where the newer visit begins
    assert draw is not None
    assert draw.ended_tasks == ()
    buffer.release(draw)
    draw = buffer.draw(4, 0)
    assert draw is not None
    assert [(v.name, v.samples) for v in draw.ended_tasks] == [("one", 5)]
    assert ids(draw) == [5, 6, 7, 8]
    assert draw.batch is not None
    assert draw.batch.column(Column.TASK).tolist() == [1] * 4
    assert draw.batch.column(Column.VISIT).tolist() == [1] * 4


def test_the_last_task_ends_when_its_producer_leaves() -> None:
    buffer = buffer_of(FIFO(16))
    source = Source(buffer)
    source.push(4, "one")
    buffer.leave("a")
    assert take(buffer, 4) == [0, 1, 2, 3]
    draw = buffer.draw(4, 0)
    assert draw is not None
    assert draw.batch is None
    assert [visit.name for visit in draw.ended_tasks] == ["one"]
    buffer.release(draw)
    assert buffer.draw(4, 0) is None
    source.push(4, "one")  # back again: a new visit
    draw = buffer.draw(4, 0)
    assert draw is not None
    assert draw.batch is not None
    assert draw.batch.column(Column.VISIT).tolist() == [1] * 4


def test_leaving_counts_from_the_place_in_the_stream_where_it_happened() -> None:
    buffer = buffer_of(FIFO(16))
    source = Source(buffer)
    source.push(2, "one")
    buffer.leave("a")
    buffer.leave("a")
    source.push(2, "one")
    assert take(buffer, 4) == [0, 1]
    draw = buffer.draw(2, 0)
    assert draw is not None
    assert [visit.visit for visit in draw.ended_tasks] == [0]
    assert ids(draw) == [2, 3]


def test_at_the_end_short_batches_come_out_and_then_nothing() -> None:
    for policy in (FIFO(32), FIRO(32, watermark_samples=6), Reservoir(64, watermark_samples=20)):
        buffer = buffer_of(policy)
        Source(buffer).push(10)
        assert take(buffer, 8) is None or isinstance(policy, FIFO)
        buffer.end()
        out: list[int] = []
        while (numbers := take(buffer, 8)) is not None:
            out += numbers
        rest = out if not isinstance(policy, FIFO) else [*range(8), *out]
        assert sorted(rest) == list(range(10))
        assert buffer.is_exhausted()
        buffer.reopen()
        assert not buffer.is_exhausted()
        assert_books_balance(buffer)


def test_end_waits_for_reservations_that_are_still_open() -> None:
    buffer = buffer_of(FIFO(16))
    source = Source(buffer)
    reservation = buffer.reserve(2)
    assert reservation is not None
    buffer.end()
    assert not buffer.is_exhausted()
    reservation.write(0, source.payload(2))
    buffer.commit(reservation, source.stamp(2))
    assert take(buffer, 8) == [0, 1]
    assert buffer.is_exhausted()


def test_the_fixed_pace_draws_each_sample_its_number_of_times() -> None:
    buffer = buffer_of(Reservoir(64, watermark_samples=8), FixedPace(4.0))
    source, drawn = Source(buffer), 0
    for _ in range(200):
        source.push(1)
        while (numbers := take(buffer, 4)) is not None:
            drawn += len(numbers)
        assert drawn == max(0, source.number - 8) * 4
    assert_books_balance(buffer)


def test_a_fixed_pace_that_a_reservoir_of_unseen_samples_cannot_keep_still_moves() -> None:
    """Half a draw a sample: nearly all it holds is unseen, and there is no room to admit by."""
    buffer = buffer_of(Reservoir(24, kept_samples=12), FixedPace(0.5))
    source, draws = Source(buffer), 0
    for _ in range(100):
        while source.push(2):
            pass
        draws += take(buffer, 4) is not None
        assert_books_balance(buffer)
    assert draws == 100


def test_the_free_pace_keeps_drawing_from_a_slow_stream_but_no_sample_too_often() -> None:
    buffer = buffer_of(Reservoir(64, watermark_samples=4), FreePace(3.0, 0.0))
    Source(buffer).push(10)
    out: list[int] = []
    while (numbers := take(buffer, 4)) is not None:
        out += numbers
    counts = np.bincount(out, minlength=10)
    assert counts.max() == 3
    assert counts.sum() >= 3 * (10 - 4)  # those left behind are below the watermark
    buffer.end()
    while (numbers := take(buffer, 4)) is not None:
        out += numbers
    assert np.bincount(out, minlength=10).min() >= 1
    assert_books_balance(buffer)


def test_a_partial_batch_lingers_and_then_comes() -> None:
    clock = Clock()
    buffer = buffer_of(FIFO(32), FreePace(1.0, 2.0), clock=clock)
    source = Source(buffer)
    source.push(3)
    assert take(buffer, 8) is None
    clock.now += 1.9
    source.push(1)
    assert take(buffer, 8) is None
    clock.now += 0.2
    assert take(buffer, 8) == [0, 1, 2, 3]
    source.push(2)
    assert take(buffer, 8) is None  # the next one waits for itself
    source.push(6)
    assert take(buffer, 8) == list(range(4, 12))


def test_without_room_block_says_no_and_room_is_announced() -> None:
    calls: list[int] = []
    buffer = buffer_of(FIFO(8), on_room=lambda: calls.append(buffer.free_samples()))
    source = Source(buffer)
    assert source.push(6)
    assert not source.push(3)
    assert calls == []
    assert take(buffer, 4) == [0, 1, 2, 3]
    assert calls == [6]
    assert source.push(3)
    assert_books_balance(buffer)


def test_room_is_not_announced_after_every_draw() -> None:
    calls: list[int] = []
    buffer = buffer_of(FIFO(320), on_room=lambda: calls.append(buffer.free_samples()))
    source = Source(buffer)
    assert source.push(320)
    for _ in range(160):
        assert take(buffer, 2) is not None
    assert len(calls) == 14  # each time that more than a sixteenth, 20 samples, became free
    assert calls[:3] == [22, 44, 66]


def test_room_is_announced_once_the_reservation_that_failed_fits() -> None:
    calls: list[int] = []
    buffer = buffer_of(FIFO(320), on_room=lambda: calls.append(buffer.free_samples()))
    source = Source(buffer)
    assert source.push(320)
    assert not source.push(10)
    assert not source.push(5)
    for _ in range(3):
        take(buffer, 2)
    assert calls == [6]
    assert not source.push(10)
    for _ in range(2):
        take(buffer, 2)
    assert calls == [6, 10]
    assert source.push(10)


def test_no_room_is_kept_secret_while_there_is_nothing_to_draw() -> None:
    """Whoever waits for that room may have the samples that the draw waits for."""
    calls: list[int] = []
    policy = Reservoir(160, kept_samples=150)
    buffer = buffer_of(policy, FixedPace(), on_room=lambda: calls.append(buffer.free_samples()))
    source = Source(buffer)
    for _ in range(15):  # fills what it keeps
        assert source.push(10)
        assert take(buffer, 10) is not None
    assert calls == []
    assert source.push(5)
    assert take(buffer, 5) is not None  # evicts 5, too few to tell of
    assert calls == []
    assert take(buffer, 5) is None
    assert calls == [10]
    assert take(buffer, 5) is None  # and tells once
    assert calls == [10]


def test_whoever_is_told_of_room_may_try_again_in_vain() -> None:
    tries: list[bool] = []
    buffer = buffer_of(
        FIFO(8), when_full="drop_oldest", on_room=lambda: tries.append(source.push(8))
    )
    source = Source(buffer)
    assert source.push(6)
    held = buffer.reserve(2)  # neither free nor to be dropped
    assert held is not None
    assert not source.push(8)
    assert take(buffer, 4) == [0, 1, 2, 3]
    assert take(buffer, 4) is None
    assert tries == [False]


def test_a_reservoir_announces_room_made_by_evictions() -> None:
    calls: list[int] = []
    buffer = buffer_of(
        Reservoir(16, kept_samples=8), FixedPace(8.0), on_room=lambda: calls.append(1)
    )
    source = Source(buffer)
    while source.push(2):
        pass
    for _ in range(40):
        take(buffer, 8)
    assert calls
    assert source.push(2)


@pytest.mark.parametrize("policy", [FIFO(8), FIRO(8), Reservoir(12, kept_samples=4)])
def test_drop_oldest_drops_the_oldest_and_counts_them(policy: Policy) -> None:
    buffer = buffer_of(policy, FreePace(1.0, 0.0), when_full="drop_oldest")
    source = Source(buffer)
    capacity = buffer.capacity_samples
    for _ in range(3):
        assert source.push(capacity // 2)
    buffer.end()
    out: list[int] = []
    while (numbers := take(buffer, 4)) is not None:
        out += numbers
    assert sorted(out) == list(range(capacity // 2, 3 * (capacity // 2)))
    status = buffer.snapshot()
    assert (status.dropped, status.drawn_first) == (capacity // 2, capacity)
    assert_books_balance(buffer)


def test_drop_oldest_takes_admitted_samples_before_those_that_wait() -> None:
    buffer = buffer_of(FIRO(8, watermark_samples=2), FixedPace(), when_full="drop_oldest")
    source = Source(buffer)
    source.push(4)
    source.push(4)
    first = take(buffer, 2)  # four admitted, two of them drawn; four wait
    assert first is not None
    source.push(5)  # three of the six left must go
    left = sorted(set(range(8)) - set(first))[3:]
    buffer.end()
    out: list[int] = []
    while (numbers := take(buffer, 3)) is not None:
        out += numbers
    assert sorted(out) == sorted([*left, *range(8, 13)])
    assert_books_balance(buffer)


def test_dropping_the_rest_of_a_task_ends_it() -> None:
    buffer = buffer_of(FIFO(4), FreePace(1.0, 0.0), when_full="drop_oldest")
    source = Source(buffer)
    source.push(4, "one")
    assert take(buffer, 2) == [0, 1]
    source.push(4, "two")
    draw = buffer.draw(4, 0)
    assert draw is not None
    assert [(v.name, v.samples, v.dropped) for v in draw.ended_tasks] == [("one", 4, 2)]
    assert ids(draw) == [4, 5, 6, 7]


def test_what_the_caller_dropped_or_quarantined_moves_the_position() -> None:
    buffer = buffer_of(FIFO(4), when_full="drop_newest")
    source = Source(buffer)
    assert source.push(3)
    assert not source.push(2)
    buffer.refuse(source.stamp(2), 2)
    assert buffer.positions()["a"] == Position(1, 2, 5, "step 2")
    buffer.skip(source.stamp(1), 1)
    assert buffer.positions()["a"] == Position(1, 3, 6, "step 3")
    assert buffer.snapshot().dropped == 2
    assert_books_balance(buffer)


def test_an_abandoned_reservation_gives_its_slots_back() -> None:
    buffer = buffer_of(FIFO(4))
    reservation = buffer.reserve(3)
    assert reservation is not None
    assert buffer.snapshot().reserved_samples == 3
    assert buffer.reserve(2) is None
    buffer.abandon(reservation)
    assert buffer.free_samples() == 4
    assert buffer.positions() == {}


def test_a_batch_that_can_never_fit_is_the_producers_fault() -> None:
    buffer = buffer_of(FIRO(10, watermark_samples=4))
    for rows in (0, 7):
        with pytest.raises(ProducerError, match=f"a batch of {rows} samples; allowed: 1 to 6"):
            buffer.reserve(rows)


def test_one_task_too_many_leaves_the_reservation_open() -> None:
    buffer = buffer_of(FIFO(8), most_tasks=1)
    source = Source(buffer)
    source.push(2, "one")
    reservation = buffer.reserve(2)
    assert reservation is not None
    with pytest.raises(ProducerError, match="at most 1 distinct"):
        buffer.commit(reservation, source.stamp(2, "two"))
    buffer.abandon(reservation)
    assert_books_balance(buffer)
    assert buffer.positions()["a"].seq == 1


def test_settings_that_would_wait_for_ever_are_refused() -> None:
    buffer = buffer_of(FIFO(8))
    assert buffer.largest_reservation(8) == 1
    with pytest.raises(OperatorError, match="training batch of 9 samples from a buffer of 8"):
        buffer.draw(9, 0)
    with pytest.raises(OperatorError, match="samples_per_insert is not 1 with FIFO"):
        buffer_of(FIFO(8), FixedPace(2.0))
    with pytest.raises(OperatorError, match="made for 8 samples, the buffer for 9"):
        StreamBuffer(SCHEMA, 9, FIFO(8), FixedPace(), TaskLedger(), generator=torch.Generator())


@pytest.mark.parametrize(
    ("policy", "pace"),
    [
        (FIFO(40), FixedPace()),
        (FIFO(40), FreePace(1.0, None)),
        (FIRO(40, watermark_samples=10), FixedPace()),
        (FIRO(40, watermark_samples=10), FreePace(1.0, None)),
        (Reservoir(80, watermark_samples=10, kept_samples=30), FixedPace(0.3)),
        (Reservoir(60, watermark_samples=10, kept_samples=30), FixedPace(2.5)),
        (Reservoir(60, watermark_samples=10, kept_samples=30), FixedPace(40.0)),
        (Reservoir(60, watermark_samples=10, kept_samples=30), FreePace(2.0, None)),
    ],
)
def test_reservations_up_to_the_largest_never_lock_up(policy: Policy, pace: Pace) -> None:
    """Whenever no draw is ready, the largest reservation gets room."""
    buffer = buffer_of(policy, pace)
    source, largest = Source(buffer), buffer.largest_reservation(8)
    assert largest >= 1
    draws = 0
    for step in range(150):
        if take(buffer, 8) is None:
            assert source.push(max(1, largest - step % 3)), (step, buffer.snapshot())
        else:
            draws += 1
    assert draws > 10


def test_draws_that_are_not_released_are_our_fault() -> None:
    buffer = buffer_of(FIFO(16))
    Source(buffer).push(16)
    draws = [buffer.draw(2, 0) for _ in range(3)]
    assert [ids(draw) for draw in draws] == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(InternalError, match="3 draws are out"):
        buffer.draw(2, 0)
    assert draws[0] is not None
    buffer.release(draws[0])
    assert take(buffer, 2) == [6, 7]


def test_on_the_cpu_a_transfer_is_the_batch_itself() -> None:
    buffer = buffer_of(FIFO(16))
    Source(buffer).push(4)
    draw = buffer.draw(4, 0)
    assert draw is not None
    batch, seconds = Transfer(SCHEMA, torch.device("cpu"))(draw)
    assert batch is draw.batch
    assert seconds == 0.0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_a_block_is_not_filled_again_before_it_was_copied() -> None:
    buffer = StreamBuffer(
        SCHEMA,
        64,
        FIFO(64),
        FixedPace(),
        TaskLedger(),
        pin_memory=True,
        generator=torch.Generator(),
    )
    source, transfer = Source(buffer), Transfer(SCHEMA, torch.device("cuda"))
    moved = []
    for _ in range(50):
        source.push(8)
        draw = buffer.draw(8)
        assert draw is not None
        moved.append(transfer(draw)[0])
        buffer.release(draw)
    got = torch.cat([batch.fields["id"] for batch in moved])
    assert got.tolist() == list(range(400))


@pytest.mark.parametrize("scattered", [False, True])
def test_only_the_rows_that_are_kept_enter_and_the_position_counts_all(scattered: bool) -> None:
    buffer = buffer_of(FIRO(32, watermark_samples=0), FreePace(1.0, 0.0), seed=1)
    source = Source(buffer)
    if scattered:  # leave free slots in disorder
        source.push(32)
        for _ in range(8):
            take(buffer, 4)
        source = Source(buffer, "b")
    reservation = buffer.reserve(6)
    assert reservation is not None
    assert (reservation.start < 0) == scattered
    reservation.write(0, source.payload(6))
    keep = np.array([True, False, True, True, False, False])
    assert reservation.copied(keep)["id"].tolist() == [0, 2, 3]
    assert reservation.copied()["id"].tolist() == [0, 1, 2, 3, 4, 5]
    assert buffer.commit(reservation, source.stamp(6), keep=keep)
    assert buffer.positions()[source.name].rows == 6
    assert buffer.free_samples() == 32 - 3
    assert sorted(take(buffer, 6) or []) == [0, 2, 3]
    assert_books_balance(buffer)


def test_a_batch_of_which_no_row_is_kept_only_moves_the_position() -> None:
    buffer = buffer_of(FIFO(8))
    source = Source(buffer)
    reservation = buffer.reserve(2)
    assert reservation is not None
    assert buffer.commit(reservation, source.stamp(2), keep=np.zeros(2, np.bool_))
    assert buffer.free_samples() == 8
    assert buffer.positions()["a"].rows == 2
    assert_books_balance(buffer)


def test_a_shut_buffer_takes_nothing_and_says_so() -> None:
    buffer = buffer_of(FIFO(8))
    source = Source(buffer)
    reservation = buffer.reserve(2)
    assert reservation is not None
    stamp = source.stamp(2)
    buffer.shut()
    before = buffer.snapshot()
    assert not buffer.commit(reservation, stamp)
    assert not buffer.skip(stamp, 2)
    assert not buffer.refuse(stamp, 2)
    assert buffer.positions() == {}
    assert buffer.snapshot() == before
    buffer.abandon(reservation)
    assert buffer.free_samples() == 8
