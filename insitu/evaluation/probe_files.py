"""Probes from a file: a `.npz` of arrays by field, as `numpy.savez(path, x=..., y=...)` writes it.

Each array has one row a sample and exactly the dtype and shape of its field in the schema (bfloat16
as uint16, its bits). Nothing is unpickled. Values that would be refused on the wire are refused
here too, since a label out of range ends a process on a GPU.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from insitu.batch import Batch, Column, SampleFlag
from insitu.errors import OperatorError
from insitu.schema import Field, Schema

#: lowest and highest allowed element; None for no bound
Bounds = tuple[float | None, float | None]

_REMEDY = "write it with numpy.savez(path, field=array, ...), one row a sample"


@dataclass(frozen=True)
class ProbeFile:
    """What a file held.

    Args:
        batch: the rows, flagged as probes.
        digest: SHA-256 of the file, in hexadecimal digits.
    """

    batch: Batch
    digest: str


def read_probe_file(
    path: Path | str, schema: Schema, bounds: Mapping[str, Bounds] | None = None
) -> ProbeFile:
    """Read the held-out rows of one task.

    Args:
        schema: the fields that the file must have, no more and no fewer.
        bounds: field -> its allowed elements.

    Raises:
        OperatorError: the file cannot be read, or its arrays do not fit; says which and why.

    Example:
        >>> import tempfile
        >>> schema = Schema.of({"x": ("float32", (2,)), "y": ("int64", ())})
        >>> path = Path(tempfile.mkdtemp()) / "probes.npz"
        >>> np.savez(path, x=np.zeros((3, 2), np.float32), y=np.arange(3))
        >>> read_probe_file(path, schema).batch.rows
        3
    """
    data = _read(path)
    arrays = _arrays(path, data)
    names = {field.name for field in schema.fields}
    if set(arrays) != names:
        raise _refusal(path, f"has the arrays {sorted(arrays)}", f"exactly {sorted(names)}")
    rows = {name: array.shape[0] if array.ndim else 0 for name, array in arrays.items()}
    if len(set(rows.values())) > 1 or not min(rows.values()):
        raise _refusal(path, f"has {rows} rows", "1 row or more, as many in every array")
    for field in schema.fields:
        _check(path, field, arrays[field.name], (bounds or {}).get(field.name, (None, None)))
    batch = Batch.of({field.name: _tensor(field, arrays[field.name]) for field in schema.fields})
    batch.provenance[:, Column.FLAGS] = int(SampleFlag.EVALUATE)
    return ProbeFile(batch, hashlib.sha256(data).hexdigest())


def _read(path: Path | str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise _refusal(path, f"cannot be read: {error.strerror}", "a readable file") from None


def _arrays(path: Path | str, data: bytes) -> dict[str, Any]:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        text = " ".join(str(error).split())
        raise _refusal(path, f"is no archive of plain arrays: {text}", "a .npz file") from None


def _check(path: Path | str, field: Field, array: Any, bounds: Bounds) -> None:
    if array.dtype != field.numpy_dtype:
        raise _refusal(
            path, f"holds {field.name!r} as {array.dtype}", f"{field.dtype}, as the stream has it"
        )
    if array.shape[1:] != field.shape:
        raise _refusal(
            path,
            f"holds {field.name!r} with shape {list(array.shape[1:])} per sample",
            f"{list(field.shape)}",
        )
    if array.dtype.kind in "fc" and not np.isfinite(array).all():
        raise _refusal(path, f"holds {field.name!r} with NaN or infinity", "finite values")
    low, high = bounds
    if low is not None and array.min() < low:
        raise _refusal(path, f"holds {field.name!r} down to {array.min()}", f"{low} or more")
    if high is not None and array.max() > high:
        raise _refusal(path, f"holds {field.name!r} up to {array.max()}", f"{high} or less")


def _tensor(field: Field, array: Any) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.view(torch.bfloat16) if field.dtype == "bfloat16" else tensor


def _refusal(path: Path | str, what: str, allowed: str) -> OperatorError:
    return OperatorError(
        f"probe file {str(path)!r} {what}",
        allowed=allowed,
        consequence="the service does not start",
        remedy=_REMEDY,
    )
