"""The ring: any cut of the bytes, into neighbouring, wrapped or scattered slots."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from insitu.batch import Column
from insitu.errors import InternalError, ProducerError
from insitu.schema import DTYPES, Schema
from insitu.stream.blocks import Blocks, typed_views
from insitu.stream.ring import Reservation, Ring
from insitu.stream.stamp import Stamp, provenance

_SCHEMA = Schema.of({"x": ("float32", (3,)), "y": ("int64", ()), "z": ("bfloat16", (2, 2))})
_CAPACITY = 40
_SLOTS = {
    "neighbours": np.arange(5, 25),
    "wrapped": np.arange(30, 50) % _CAPACITY,
    "few runs": np.r_[30:36, 2:9, 20:27],
    "scattered": np.random.default_rng(0).permutation(_CAPACITY)[:20],
    "one": np.array([17]),
}


def _payload(rows: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(rows * _SCHEMA.row_bytes)


@given(st.sampled_from(sorted(_SLOTS)), st.data())
def test_every_cut_of_the_bytes_arrives(kind: str, data: st.DataObject) -> None:
    ring = Ring(_SCHEMA, _CAPACITY)
    ring.rows.fill_(7)
    slots = _SLOTS[kind]
    reservation = Reservation(ring, slots)
    payload = _payload(len(slots))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(payload)), max_size=6)))
    for start, end in zip([0, *cuts], [*cuts, len(payload)], strict=True):
        reservation.write(start, memoryview(payload)[start:end])
    expected = np.full((_CAPACITY, _SCHEMA.row_bytes), 7, np.uint8)
    expected[slots] = np.frombuffer(payload, np.uint8).reshape(len(slots), -1)
    assert (ring.bytes == expected).all()  # and no other row was touched


@pytest.mark.parametrize("values", [4, 100_000], ids=["small", "shared among threads"])
@pytest.mark.parametrize("kind", sorted(_SLOTS))
def test_rows_are_gathered_with_their_provenance(kind: str, values: int) -> None:
    ring, slots = Ring(Schema.of({"x": ("float32", (values,))}), _CAPACITY), _SLOTS[kind]
    ring.rows[:] = torch.arange(_CAPACITY)[:, None]
    ring.provenance[:] = torch.arange(_CAPACITY)[:, None]
    out = np.zeros((len(slots), ring.schema.row_bytes), np.uint8)
    columns = ring.gather(slots, out)
    assert (out == slots[:, None]).all()
    assert (columns.numpy() == slots[:, None]).all()
    columns.zero_()
    assert ring.provenance[int(slots[-1]), 0] == slots[-1]  # a copy


@pytest.mark.parametrize("kind", sorted(_SLOTS))
def test_views_show_the_rows_and_changes_can_be_written_back(kind: str) -> None:
    ring, slots = Ring(_SCHEMA, _CAPACITY), _SLOTS[kind]
    reservation = Reservation(ring, slots)
    payload = _payload(len(slots), seed=1)
    reservation.write(0, payload)
    records = np.frombuffer(payload, _SCHEMA.numpy_row)
    views = reservation.views()
    assert list(views) == ["x", "y", "z"]
    for name, view in views.items():
        assert view.dtype == _SCHEMA[name].numpy_dtype
        assert view.tobytes() == records[name].tobytes()
    views["y"][:] = -3
    reservation.write_back()
    assert (ring.records["y"][slots] == -3).all()
    assert (ring.records["x"][slots].tobytes()) == records["x"].tobytes()


def test_the_xxh3_of_a_batch_is_known_only_of_what_was_written_whole() -> None:
    reservation = Reservation(Ring(_SCHEMA, _CAPACITY), np.arange(2))
    size = 2 * _SCHEMA.row_bytes
    assert reservation.xxh3 is None
    reservation.write(0, bytes(size), xxh3=5)
    assert reservation.xxh3 == 5
    reservation.write(0, bytes(size))
    assert reservation.xxh3 is None
    reservation.write(0, bytes(size), xxh3=6)
    reservation.write(3, b"\1", xxh3=7)
    assert reservation.xxh3 is None
    reservation.write(0, bytes(size), xxh3=8)
    reservation.views()["y"][0] = 3
    reservation.write_back()
    assert reservation.xxh3 is None


def test_bytes_outside_of_the_batch_are_refused() -> None:
    reservation = Reservation(Ring(_SCHEMA, _CAPACITY), np.arange(2))
    size = 2 * _SCHEMA.row_bytes
    for offset, length in ((size - 1, 2), (-1, 1), (size + 1, 0)):
        with pytest.raises(InternalError, match="written to a reservation"):
            reservation.write(offset, bytes(length))
    reservation.publish(np.zeros((2, len(Column)), np.int64), 1)
    with pytest.raises(InternalError, match="written to a reservation"):
        reservation.write(0, b"late")


def test_every_dtype_has_a_typed_view_of_the_same_bits() -> None:
    schema = Schema.of({name: (name, (2, 3)) for name in DTYPES} | {"scalar": ("int16", ())})
    blocks = Blocks(schema, 2, pin_memory=False)
    block = blocks.lend(4)
    rng = np.random.default_rng(2)
    raw = rng.integers(0, 2, (4, schema.row_bytes), dtype=np.uint8)
    block.rows.copy_(torch.from_numpy(raw))
    records = raw.reshape(-1).view(schema.numpy_row)
    for name in DTYPES:
        view = block.fields[name]
        assert (view.dtype, tuple(view.shape)) == (getattr(torch, name), (4, 2, 3))
        bits = view.contiguous().view(torch.uint8).numpy().tobytes()
        assert bits == records[name].tobytes()
    assert block.fields["scalar"].tolist() == records["scalar"].tolist()
    assert block.fields["scalar"].data_ptr() == typed_views(schema, block.rows)["scalar"].data_ptr()


def test_blocks_are_lent_in_turn_and_their_number_is_bounded() -> None:
    blocks = Blocks(_SCHEMA, 2, pin_memory=False)
    first, second = blocks.lend(4), blocks.lend(4)
    with pytest.raises(InternalError, match="2 draws are out"):
        blocks.lend(4)
    blocks.give_back(first)
    assert blocks.lend(3) is first
    larger = blocks.lend(9)
    assert len(larger.rows) == 9
    blocks.give_back(second)  # too small now, and forgotten
    other = blocks.lend(9)
    assert other is not second
    blocks.give_back_unused(other)
    assert blocks.lend(9) is other


def test_a_stamp_tells_the_provenance_of_every_row() -> None:
    stamp = Stamp(
        "a", 1, 2, None, first_row=10, produced_at_ns=[5, 6], sample_ids=[70, 80], flags=2
    )
    columns = provenance(stamp, 2)
    assert columns[:, Column.ROW].tolist() == [10, 11]
    assert columns[:, Column.PRODUCED_AT_NS].tolist() == [5, 6]
    assert columns[:, Column.SAMPLE_ID].tolist() == [70, 80]
    assert columns[:, Column.FLAGS].tolist() == [2, 2]
    without_ids = provenance(Stamp("a", 1, 2, None, first_row=10), 2)
    assert without_ids[:, Column.SAMPLE_ID].tolist() == [10, 11]


@pytest.mark.parametrize("ids", [[1, 2, 3], [2**63, 0], ["a", "b"]])
def test_ids_that_do_not_fit_are_the_producers_fault(ids: list[int]) -> None:
    with pytest.raises(ProducerError, match="one 64-bit number for each of 2 rows"):
        provenance(Stamp("a", 1, 2, None, 0, sample_ids=ids), 2)
