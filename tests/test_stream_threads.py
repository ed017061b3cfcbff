"""The stream buffer between real threads: every row once, whole, with its own provenance."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from insitu.batch import Column
from insitu.schema import Schema
from insitu.stream.buffer import StreamBuffer, WhenFull
from insitu.stream.pacing import FixedPace, FreePace, Pace
from insitu.stream.policies import FIFO, FIRO, Policy, Reservoir
from insitu.stream.stamp import Stamp
from insitu.tasks import TaskLedger

_WIDTH = 64
SCHEMA = Schema.of({"x": ("int64", (_WIDTH,)), "tag": ("int64", ())})
_PRODUCERS = ("a", "b", "c")
_ROWS_EACH = 2500


class Feeder:
    """Pushes rows of several producers, fragments and batches interleaved, from one thread."""

    def __init__(
        self, when_full: WhenFull, make: Callable[[Callable[[], None]], StreamBuffer]
    ) -> None:
        self._room = threading.Event()
        self._drop = when_full == "drop_newest"
        self.buffer = make(self._room.set)
        self.refused = 0

    def run(self) -> None:
        rng = np.random.default_rng(1)
        streams = [self._batches(name, index, rng) for index, name in enumerate(_PRODUCERS)]
        blocked: list[Iterator[bool]] = []
        while streams or blocked:
            if not streams:  # nobody has something half sent that could go on
                assert self._room.wait(30), "no room was announced"
                self._room.clear()
                streams, blocked = blocked, []
            stream = streams[int(rng.integers(len(streams)))]
            moved = next(stream, None)
            if not moved:
                streams.remove(stream)
            if moved is False:
                blocked.append(stream)
        for name in _PRODUCERS:
            self.buffer.leave(name)
        self.buffer.end()

    def _batches(self, name: str, index: int, rng: np.random.Generator) -> Iterator[bool]:
        """Go one move further: True, or False where there was no room."""
        first = seq = 0
        while first < _ROWS_EACH:
            rows = min(int(rng.integers(1, 12)), _ROWS_EACH - first)
            seq += 1
            stamp = Stamp(name, 1, seq, seq, first, task=f"regime {first // 1000}")
            records = np.zeros(rows, SCHEMA.numpy_row)
            records["tag"] = index * _ROWS_EACH + np.arange(first, first + rows)
            records["x"] = records["tag"][:, None] + np.arange(_WIDTH)
            first += rows
            while (reservation := self.buffer.reserve(rows)) is None:
                if self._drop:
                    self.buffer.refuse(stamp, rows)
                    self.refused += rows
                    break
                yield False
            if reservation is None:
                continue
            payload = records.tobytes()
            half = len(payload) // 3
            reservation.write(0, payload[:half])
            yield True
            reservation.write(half, payload[half:])
            self.buffer.commit(reservation, stamp)
            yield True


@contextmanager
def _running(feeder: Feeder) -> Iterator[None]:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            feeder.run()
        except BaseException as error:
            errors.append(error)
            feeder.buffer.end()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join(60)
    assert not thread.is_alive()
    if errors:
        raise errors[0]


def _feeder(policy: Policy, pace: Pace, when_full: WhenFull) -> Feeder:
    def make(on_room: Callable[[], None]) -> StreamBuffer:
        return StreamBuffer(
            SCHEMA,
            policy.capacity_samples,
            policy,
            pace,
            TaskLedger(),
            when_full=when_full,
            generator=torch.Generator().manual_seed(0),
            on_room=on_room,
        )

    return Feeder(when_full, make)


@pytest.mark.parametrize(
    ("policy", "pace", "when_full"),
    [
        (FIFO(150), FixedPace(), "block"),
        (FIFO(150), FreePace(1.0, 0.001), "drop_newest"),
        (FIRO(150, watermark_samples=40), FixedPace(), "block"),
        (FIRO(150, watermark_samples=40), FreePace(1.0, 0.001), "drop_oldest"),
        (Reservoir(200, watermark_samples=20), FixedPace(2.0), "block"),
        (Reservoir(200, watermark_samples=20), FreePace(2.0, 0.001), "drop_oldest"),
    ],
)
def test_every_row_is_drawn_once_and_whole(policy: Policy, pace: Pace, when_full: WhenFull) -> None:
    feeder = _feeder(policy, pace, when_full)
    buffer = feeder.buffer
    times = np.zeros(len(_PRODUCERS) * _ROWS_EACH, np.int64)
    ended: list[str] = []
    with _running(feeder):
        while (draw := buffer.draw(16, 30)) is not None:
            ended += [visit.name for visit in draw.ended_tasks]
            batch = draw.batch
            if batch is None:
                continue
            tags = batch.fields["tag"]
            assert torch.equal(batch.fields["x"], tags[:, None] + torch.arange(_WIDTH))
            row = batch.column(Column.ROW)
            names = [buffer.producers()[i] for i in batch.column(Column.PRODUCER).tolist()]
            index = torch.tensor([_PRODUCERS.index(name) for name in names])
            assert torch.equal(index * _ROWS_EACH + row, tags)
            np.add.at(times, tags.numpy(), 1)
            buffer.release(draw)
    status = buffer.snapshot()
    assert status.received == len(times)
    assert (status.unseen_samples, status.reserved_samples) == (0, 0)
    assert np.count_nonzero(times) == status.drawn_first == len(times) - status.dropped
    assert times.sum() == status.drawn
    if policy.draws_once:
        assert times.max() == 1
    if when_full == "block":
        assert status.dropped == 0
        assert set(ended) == {"regime 0", "regime 1", "regime 2"}
    if when_full == "drop_newest":
        assert status.dropped == feeder.refused
    positions = buffer.positions()
    assert {name: positions[name].rows for name in _PRODUCERS} == dict.fromkeys(
        _PRODUCERS, _ROWS_EACH
    )


def _draw_in_background(buffer: StreamBuffer) -> tuple[threading.Thread, list[object]]:
    """A thread that waits in `draw`; its result comes into the list."""
    result: list[object] = []
    thread = threading.Thread(target=lambda: result.append(buffer.draw(4)))
    thread.start()
    return thread, result


@pytest.mark.parametrize("wake", ["commit", "interrupt", "end", "leave"])
def test_a_waiting_draw_wakes(wake: str) -> None:
    buffer = _feeder(FIFO(16), FixedPace(), "block").buffer
    reservation = buffer.reserve(4)
    assert reservation is not None
    if wake == "leave":
        buffer.commit(reservation, Stamp("a", 1, 1, None, 0))
        first = buffer.draw(4)
        assert first is not None
    thread, result = _draw_in_background(buffer)
    if wake == "commit":
        buffer.commit(reservation, Stamp("a", 1, 1, None, 0))
    elif wake == "interrupt":
        buffer.interrupt()
    elif wake == "end":
        buffer.abandon(reservation)
        buffer.end()
    else:
        buffer.leave("a")
    thread.join(30)
    assert not thread.is_alive()
    assert (result[0] is None) == (wake in ("interrupt", "end"))


def test_a_draw_gives_up_after_its_timeout_and_lingers_by_the_real_clock() -> None:
    buffer = _feeder(FIFO(16), FreePace(1.0, 0.02), "block").buffer
    assert buffer.draw(4, 0.01) is None
    reservation = buffer.reserve(2)
    assert reservation is not None
    buffer.commit(reservation, Stamp("a", 1, 1, None, 0))
    draw = buffer.draw(4, 30)
    assert draw is not None
    assert draw.batch is not None
    assert draw.batch.rows == 2
    assert draw.waited_seconds >= 0.02


def test_saving_beside_a_running_ingest_is_consistent() -> None:
    """A state holds of each producer exactly the rows before its position that were not drawn."""
    feeder = _feeder(FIRO(400, watermark_samples=40), FixedPace(), "block")
    buffer, drawn, saved = feeder.buffer, [set() for _ in _PRODUCERS], 0
    with _running(feeder):
        while (draw := buffer.draw(16, 30)) is not None:
            batch = draw.batch
            if batch is None:
                continue
            for producer, row in batch.provenance[:, : Column.ROW + 1].tolist():
                drawn[producer].add(row)
            buffer.release(draw)
            saved += 1
            if saved % 40:
                continue
            state = buffer.state_dict()
            held = state["provenance"][:, : Column.ROW + 1].tolist()
            for name, _, _, rows, *_ in state["positions"]:
                producer = state["producers"].index(name)
                kept = {row for p, row in held if p == producer}
                assert kept.isdisjoint(drawn[producer])
                assert kept | drawn[producer] == set(range(rows))
    assert saved > 200
