"""Rows of a log as arrays in a .npz file, one field after the other.

The log is read once for each field, so no field has to fit into memory; what is known of a row
besides takes about 100 bytes of it.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from insitu.batch import Column
from insitu.errors import OperatorError
from insitu.stream.log.disk import Disk
from insitu.stream.log.record import WITH_ROWS, Record
from insitu.stream.log.walk import LogWalk
from insitu.stream.stamp import Stamp, provenance

#: what is known of every row besides its fields; `@` cannot begin a field's name
COLUMNS = {
    "@record": "number of the record",
    "@row": "place in the record, from 0",
    "@kind": "1 for training, 2 for the probes",
    "@kept": "whether the row passed the door",
    "@producer": "index into `@producers`, their ids",
    "@task": "index into `@tasks`, their names",
    "@epoch": "life of the producer",
    "@seq": "number of the batch",
    "@producer_row": "running number at the producer",
    "@produced_at_ns": "wall clock of the producer, ns since 1970",
    "@sample_id": "the producer's own id",
    "@flags": "bits of SampleFlag",
}


def export_rows(disk: Disk, target: Path, from_record: int, to_record: int) -> tuple[int, LogWalk]:
    """Write the rows of some records; what is damaged is left out.

    Returns:
        rows, and a walk that tells what was damaged in the log.

    Raises:
        OperatorError: these records have no rows.
    """
    producers: dict[str, int] = {}
    tasks: dict[str, int] = {}
    parts: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in COLUMNS}
    walk = LogWalk(disk)
    for record in _with_rows(walk, from_record, to_record):
        assert record.stamp is not None
        known = _known(record, record.stamp, producers, tasks)
        for name, values in known.items():
            parts[name].append(values)
    rows = sum(map(len, parts["@record"]))
    if rows == 0:
        raise OperatorError(
            f"records {from_record:,} to {to_record:,} have no rows",
            allowed=f"records up to {walk.number:,}",
            consequence="nothing is written",
        )
    with zipfile.ZipFile(target, "w", allowZip64=True) as archive:
        for name, arrays in parts.items():
            _write(archive, name, arrays[0].dtype, (rows,), iter(arrays))
        for name, index in (("@producers", producers), ("@tasks", tasks)):
            texts = np.array(list(index), np.str_)
            _write(archive, name, texts.dtype, texts.shape, iter([texts]))
        for field in walk.schema.fields:
            again = LogWalk(disk)
            arrays_of = (
                np.frombuffer(record.payload, walk.schema.numpy_row)[field.name]
                for record in _with_rows(again, from_record, to_record)
            )
            shape = (rows, *field.shape)
            _write(archive, field.name, field.numpy_dtype, shape, arrays_of)
    return rows, walk


def _with_rows(walk: LogWalk, from_record: int, to_record: int) -> Iterator[Record]:
    for record in walk.records(from_record=from_record):
        if record.number > to_record:
            return
        if record.number >= from_record and record.kind in WITH_ROWS:
            yield record


def _known(
    record: Record, stamp: Stamp, producers: dict[str, int], tasks: dict[str, int]
) -> dict[str, npt.NDArray[Any]]:
    rows = record.rows
    columns = provenance(stamp, rows)

    def numbers(value: int) -> npt.NDArray[np.int64]:
        return np.full(rows, value, np.int64)

    return {
        "@record": numbers(record.number),
        "@row": np.arange(rows),
        "@kind": numbers(record.kind),
        "@kept": np.ones(rows, bool) if record.keep is None else record.keep.copy(),
        "@producer": numbers(producers.setdefault(stamp.producer_id, len(producers))),
        "@task": numbers(tasks.setdefault(stamp.task, len(tasks))),
        "@epoch": numbers(stamp.epoch),
        "@seq": numbers(stamp.seq),
        "@producer_row": columns[:, Column.ROW],
        "@produced_at_ns": columns[:, Column.PRODUCED_AT_NS],
        "@sample_id": columns[:, Column.SAMPLE_ID],
        "@flags": columns[:, Column.FLAGS],
    }


def _write(
    archive: zipfile.ZipFile,
    name: str,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    arrays: Iterator[npt.NDArray[Any]],
) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array_header_2_0(file, header)
        for array in arrays:
            file.write(np.ascontiguousarray(array).tobytes())
