"""What `push` is given, as checked columns: one numpy array a field of the schema, equally long."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from insitu.errors import ProducerError
from insitu.schema import Field, Schema
from insitu.wire.rows import Array, infer_schema
from insitu_producers.arrays import as_array

SchemaLike = Schema | Mapping[str, tuple[str, tuple[int, ...]]]


def as_schema(schema: SchemaLike) -> Schema:
    """A schema as such, from either way to write it."""
    return schema if isinstance(schema, Schema) else Schema.of(schema)


def inferred(arrays: Mapping[str, Any], *, single: bool = False) -> Schema:
    """The schema that a first push implies."""
    named = {}
    for name, value in arrays.items():
        dtype, array = as_array(name, value)
        if single:
            array = array[np.newaxis]
        if array.ndim == 0:
            raise _no_rows(name)
        named[name] = (dtype, array)
    return infer_schema(named)


def as_columns(
    schema: Schema, arrays: Mapping[str, Any], *, single: bool = False
) -> tuple[int, list[Array]]:
    """The number of rows and the columns, in the schema's order.

    Args:
        single: the arrays are one sample, without an axis of rows.

    Raises:
        ProducerError: naming the field that is missing, unknown, of another dtype or shape, or
            of another number of rows; or a push of no rows.
    """
    columns = []
    fields = schema.fields
    for field in fields:
        value = arrays.get(field.name)
        if type(value) is not np.ndarray or single or not _fits(field, value):
            if field.name not in arrays:
                raise _other_fields(schema, arrays)
            value = _column(field, value, single)
        columns.append(value)
    if len(arrays) != len(fields):
        raise _other_fields(schema, arrays)
    rows = len(columns[0])
    if len(columns) > 1:
        _check_lengths(schema, columns)
    if rows == 0:
        raise ProducerError(
            f"a push of 0 rows (field {schema.fields[0].name!r} is empty)", allowed="1 row or more"
        )
    return rows, columns


def _fits(field: Field, value: Array) -> bool:
    """Whether this array can be copied into the field's column as it is."""
    return (
        value.dtype == field.numpy_dtype
        and value.shape[1:] == field.shape
        and value.ndim > 0
        and field.dtype != "bfloat16"
    )


def _check_lengths(schema: Schema, columns: list[Array]) -> None:
    rows = len(columns[0])
    for field, column in zip(schema.fields, columns, strict=True):
        if len(column) != rows:
            raise ProducerError(
                f"field {field.name!r} has {len(column)} rows, "
                f"{schema.fields[0].name!r} has {rows}",
                allowed="one first axis for all fields",
            )


def _column(field: Field, value: Any, single: bool) -> Array:
    dtype, array = as_array(field.name, value, field)
    if single:
        array = array[np.newaxis]
    if array.ndim == 0:
        raise _no_rows(field.name)
    if dtype != field.dtype or array.shape[1:] != field.shape:
        raise ProducerError(
            f"field {field.name!r} is {dtype}{list(array.shape[1:])} a row",
            allowed=f"{field.dtype}{list(field.shape)}, as the stream's schema says",
            consequence="nothing of this push was taken",
        )
    return array


def _no_rows(name: str) -> ProducerError:
    return ProducerError(
        f"field {name!r} is a single number",
        allowed="arrays whose first axis is rows",
        remedy="push_one(...) for a single sample",
    )


def _other_fields(schema: Schema, arrays: Mapping[str, Any]) -> ProducerError:
    ours = [field.name for field in schema.fields]
    missing = [name for name in ours if name not in arrays]
    unknown = [name for name in arrays if name not in ours]
    words = [f"without {', '.join(missing)}"] if missing else []
    words += [f"with unknown {', '.join(map(repr, unknown))}"] if unknown else []
    return ProducerError(f"a push {' and '.join(words)}", allowed=f"the fields {', '.join(ours)}")


def as_sample_ids(sample_ids: Any, rows: int) -> bytes:
    """One int64 a row, as the wire has them."""
    ids = np.asarray(sample_ids)
    if ids.shape != (rows,) or ids.dtype.kind not in "iu":
        raise ProducerError(
            f"sample_ids is {ids.dtype.name}{list(ids.shape)}", allowed=f"{rows} whole numbers"
        )
    return ids.astype("<i8").tobytes()
