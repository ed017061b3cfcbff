"""Saving and resuming the stream buffer: the next draws are the same, bit for bit."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from insitu.errors import OperatorError
from insitu.schema import Schema
from insitu.stream.buffer import StreamBuffer
from insitu.stream.draw import Draw
from insitu.stream.pacing import FixedPace, FreePace, Pace
from insitu.stream.policies import FIFO, FIRO, Policy, Reservoir
from insitu.stream.stamp import Position, Stamp
from insitu.tasks import TaskLedger

SCHEMA = Schema.of({"x": ("float32", (5,)), "y": ("int32", ())})
_POLICIES: dict[str, tuple[Callable[[int], Policy], float]] = {
    "fifo": (FIFO, 1.0),
    "firo": (lambda capacity: FIRO(capacity, watermark_samples=9), 1.0),
    "reservoir": (
        lambda capacity: Reservoir(capacity, watermark_samples=9, kept_samples=24),
        2.5,
    ),
}


def _buffer(name: str, capacity: int = 48, pace: Pace | None = None) -> StreamBuffer:
    make, ratio = _POLICIES[name]
    return StreamBuffer(
        SCHEMA,
        capacity,
        make(capacity),
        pace or FixedPace(ratio),
        TaskLedger(),
        generator=torch.Generator().manual_seed(11),
    )


class _Stream:
    """An endless stream in a fixed order: 1 to 7 rows, two producers, tasks that change."""

    def __init__(self) -> None:
        self.batch = 0
        self.rows = {"a": 0, "b": 0}

    def offer(self, buffer: StreamBuffer) -> bool:
        """Push the next batch if there is room."""
        name, rows = "ab"[self.batch % 3 == 2], 1 + self.batch * 5 % 7
        reservation = buffer.reserve(rows)
        if reservation is None:
            return False
        content = torch.Generator().manual_seed(self.batch)
        payload = torch.randint(256, (rows * SCHEMA.row_bytes,), generator=content)
        reservation.write(0, payload.to(torch.uint8).numpy())
        task = f"regime {self.batch // 20}"
        stamp = Stamp(name, 1, self.batch, self.batch, self.rows[name], task=task)
        buffer.commit(reservation, stamp)
        self.rows[name] += rows
        self.batch += 1
        if self.batch % 20 == 0:
            buffer.leave("b")
        return True


def _record(draw: Draw) -> list[Any]:
    ended = [(visit.name, visit.samples) for visit in draw.ended_tasks]
    if draw.batch is None:
        return [ended]
    bits = [tensor.numpy().tobytes() for tensor in draw.batch.fields.values()]
    return [ended, bits, draw.batch.provenance.tolist()]


def _flat(records: list[list[Any]]) -> list[Any]:
    """Ends and batches in order: whether an end came with a batch or before it is the same."""
    flat: list[Any] = []
    for ended, *batch in records:
        flat += [*ended, *batch]
    return flat


def _run(
    name: str, draws: int, greedy: int, save_at: int | None = None, capacity: int = 48
) -> list[Any]:
    """Draw so often; `greedy`, how far ingest runs ahead of the learner, must not matter."""
    buffer, stream, records = _buffer(name), _Stream(), []
    batches = 0
    while batches < draws:
        for _ in range(greedy):
            stream.offer(buffer)
        draw = buffer.draw(8, 0)
        if draw is None:
            assert stream.offer(buffer)
            continue
        records.append(_record(draw))
        batches += draw.batch is not None
        buffer.release(draw)
        if batches == save_at:
            save_at = None
            positions = buffer.positions()
            state = json_and_tensors(buffer.state_dict())
            buffer = _buffer(name, capacity)
            buffer.load_state_dict(state)
            assert buffer.positions() == positions
    return _flat(records)


def json_and_tensors(state: Any) -> Any:
    """Deep copy that lets through only what a checkpoint can hold."""
    if isinstance(state, torch.Tensor):
        return state.clone()
    if isinstance(state, dict):
        assert all(isinstance(key, str) for key in state)
        return {key: json_and_tensors(value) for key, value in state.items()}
    if isinstance(state, list):
        return [json_and_tensors(value) for value in state]
    assert json.loads(json.dumps(state)) == state
    return state


@pytest.mark.parametrize("name", sorted(_POLICIES))
def test_draws_are_a_function_of_the_order_of_arrival_only(name: str) -> None:
    slow = _run(name, 120, greedy=0)
    assert any(isinstance(entry, tuple) for entry in slow)  # tasks ended on the way
    assert _run(name, 120, greedy=1) == slow
    assert _run(name, 120, greedy=9) == slow


@pytest.mark.parametrize("save_at", [1, 37, 80])
@pytest.mark.parametrize("name", sorted(_POLICIES))
def test_a_resumed_run_is_bit_identical(name: str, save_at: int) -> None:
    assert _run(name, 120, 9, save_at) == _run(name, 120, 9)


def test_a_larger_ring_takes_a_smaller_ones_state() -> None:
    assert _run("firo", 120, 0, save_at=50, capacity=70) == _run("firo", 120, 0)


@pytest.mark.parametrize("name", sorted(_POLICIES))
def test_a_state_saved_while_the_stream_ends_goes_on_ending(name: str) -> None:
    def drain(resume: bool) -> list[Any]:
        buffer, stream, records = _buffer(name), _Stream(), []
        for _ in range(12):
            stream.offer(buffer)
        buffer.end()
        while (draw := buffer.draw(4, 0)) is not None:
            records.append(_record(draw))
            buffer.release(draw)
            if resume and len(records) == 3:
                state = copy.deepcopy(buffer.state_dict())
                buffer = _buffer(name)
                buffer.load_state_dict(state)
        assert buffer.is_exhausted()
        return _flat(records)

    assert drain(True) == drain(False)


def test_a_position_keeps_the_newest_cursor_whatever_comes_without_one() -> None:
    buffer = _buffer("fifo")
    for epoch, seq, cursor in ((1, 1, "step 7"), (1, 2, None), (2, 1, None)):
        reservation = buffer.reserve(2)
        assert reservation is not None
        assert buffer.commit(reservation, Stamp("a", epoch, seq, cursor, 2 * (seq - 1)))
        assert buffer.positions()["a"].cursor == "step 7"
    assert buffer.skip(Stamp("a", 2, 2, None, 2), 2)
    assert buffer.positions()["a"] == Position(2, 2, 4, "step 7", rows_behind_cursor=4)


def test_a_position_counts_the_rows_behind_its_cursor() -> None:
    """A new epoch begins to count at the cursor that the former one has left."""
    buffer = _buffer("fifo")
    behind = []
    for epoch, seq, cursor, first, rows in (
        (1, 1, None, 0, 2), (1, 2, "step 1", 2, 3), (1, 3, None, 5, 2), (1, 4, None, 9, 1),
        (2, 0, None, 5, 0), (2, 1, None, 5, 4), (2, 2, "step 2", 9, 1), (3, 0, None, 0, 0),
    ):  # fmt: skip
        assert buffer.skip(Stamp("a", epoch, seq, cursor, first), rows)
        behind.append(buffer.positions()["a"].rows_behind_cursor)
    assert behind == [2, 0, 2, 5, 5, 9, 0, 0]
    other = _buffer("fifo")
    other.load_state_dict(copy.deepcopy(buffer.state_dict()))
    assert other.positions() == buffer.positions()


def test_an_open_reservation_is_no_part_of_the_state() -> None:
    buffer, stream = _buffer("fifo"), _Stream()
    for _ in range(4):
        stream.offer(buffer)
    before = buffer.snapshot()
    assert buffer.reserve(5) is not None
    other = _buffer("fifo")
    other.load_state_dict(buffer.state_dict())
    assert other.snapshot() == before


def test_loading_over_a_used_buffer_forgets_what_was_there() -> None:
    buffer, other = _buffer("reservoir"), _buffer("reservoir")
    for target, batches in ((buffer, 6), (other, 13)):
        stream = _Stream()
        for _ in range(batches):
            stream.offer(target)
            draw = target.draw(4, 0)
            if draw is not None:
                target.release(draw)
    other.load_state_dict(buffer.state_dict())
    assert other.snapshot() == buffer.snapshot()
    assert other.producers() == buffer.producers()


def test_what_does_not_fit_is_refused_by_name() -> None:
    buffer, stream = _buffer("fifo"), _Stream()
    while stream.offer(buffer):
        pass
    state = buffer.state_dict()
    with pytest.raises(
        OperatorError, match="saved buffer policy is FIFO, the configured one is FIRO"
    ):
        _buffer("firo").load_state_dict(state)
    with pytest.raises(OperatorError, match=r"holds \d+ samples, buffer.capacity_samples is 30"):
        _buffer("fifo", 30).load_state_dict(state)
    with pytest.raises(OperatorError, match=r"wrong keys: \['surprise'\]"):
        _buffer("fifo").load_state_dict({**state, "surprise": 1})
    other = StreamBuffer(
        Schema.of({"x": ("float32", (4,)), "y": ("int32", ())}),
        48, FIFO(48), FreePace(), TaskLedger(), generator=torch.Generator(),
    )  # fmt: skip
    with pytest.raises(OperatorError, match=r"another schema: field 'x' is float32\[5\]"):
        other.load_state_dict(state)
