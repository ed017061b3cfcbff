"""Messages to frames and back: `encode` and `decode` are pure functions."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any

import msgpack

from insitu.errors import ProducerError
from insitu.schema import Field, Schema
from insitu.wire.messages import (
    MESSAGES,
    PROTOCOL_VERSION,
    Data,
    Hello,
    Message,
    VersionError,
    Welcome,
    WireError,
)
from insitu.wire.values import Check, Payload

MAX_HEADER_BYTES = 1 << 20
MAX_FIELDS = 256
MAX_RANK = 16


@dataclass(frozen=True, slots=True)
class _Layout:
    """A message class and the names and checks of its array elements after the kind.

    `least` is how many elements, the kind included, it has at least; the others may be left out.
    """

    message: type[Message]
    names: tuple[str, ...]
    checks: tuple[Check, ...]
    least: int


def _layout(message: type[Message]) -> _Layout:
    hints = typing.get_type_hints(message, include_extras=True)
    elements = [field for field in fields(message) if field.name != "payload"]
    names = tuple(field.name for field in elements)
    least = 1 + sum(field.default is MISSING for field in elements)
    return _Layout(message, names, tuple(hints[name].__metadata__[0] for name in names), least)


_LAYOUTS = {message.KIND: _layout(message) for message in MESSAGES}


def encode(message: Message) -> list[Payload]:
    """The frames of a message: one, or for DATA two of which the second is its payload as it is.

    Example:
        >>> from insitu.wire.messages import Pong
        >>> [frame.hex() for frame in encode(Pong(session=7, stamp_ns=1))]
        ['93080701']
    """
    if isinstance(message, Data):
        return [_encode_data(message), message.payload]
    layout = _LAYOUTS[message.KIND]
    values = [message.KIND, *(getattr(message, name) for name in layout.names)]
    if isinstance(message, Hello):
        values[5] = message.schema.as_wire()
    while len(values) > layout.least and values[-1] is None:
        values.pop()
    return [msgpack.packb(values)]


def _encode_data(data: Data) -> bytes:
    header: bytes = msgpack.packb(
        (
            4, data.session, data.seq, data.fragment, data.fragments, data.rows, data.first_row,
            data.payload_bytes, data.offset, data.checksum, data.produced_at_ns, data.cursor,
            data.task, data.sample_ids, data.flags, data.piece,
        )
    )  # fmt: skip
    return header


def decode(frames: Sequence[Payload]) -> Message:
    """The message in these frames.

    Raises:
        VersionError: a HELLO or WELCOME of another version, whatever else is in it.
        WireError: anything else that is not exactly a message; nothing other is ever raised.
    """
    if not frames:
        raise WireError("a message without frames", allowed="1 frame, or 2 for DATA")
    values = _unpack(frames[0])
    kind = values[0]
    layout = _LAYOUTS.get(kind) if type(kind) is int else None
    if layout is None:
        raise WireError(f"message kind {_short(kind)} is unknown", allowed="1 to 12")
    if layout.message in (Hello, Welcome):
        _check_version(values)
    _check_values(layout, values)
    if len(frames) != (2 if layout.message is Data else 1):
        raise WireError(
            f"{layout.message.__name__} came in {len(frames)} frames", allowed="1, and 2 for DATA"
        )
    if layout.message is Data:
        return _decode_data(values, frames[1])
    if layout.message is Hello:
        values[5] = _decode_schema(values[5], values[6])
        values[7] = tuple(values[7])
    return layout.message(*values[1:])


def _unpack(frame: Payload) -> list[Any]:
    if len(frame) > MAX_HEADER_BYTES:
        raise WireError(f"the header has {len(frame)} bytes", allowed=f"up to {MAX_HEADER_BYTES}")
    try:
        values = msgpack.unpackb(frame)
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise WireError(
            f"the header does not parse: {type(error).__name__} {_short(str(error))}",
            allowed="one msgpack array",
        ) from None
    if type(values) is not list or not values:
        raise WireError(f"the header is {_short(values)}", allowed="a msgpack array [kind, ...]")
    return values


def _check_version(values: list[Any]) -> None:
    version = values[1] if len(values) > 1 else None
    if type(version) is not int:
        raise WireError(f"the protocol version is {_short(version)}", allowed="a whole number")
    if version != PROTOCOL_VERSION:
        raise VersionError(version)


def _check_values(layout: _Layout, values: list[Any]) -> None:
    most = len(layout.checks) + 1
    if not layout.least <= len(values) <= most:
        allowed = str(most) if layout.least == most else f"{layout.least} to {most}"
        raise WireError(f"{layout.message.__name__} has {len(values)} elements", allowed=allowed)
    for index, check in enumerate(layout.checks[: len(values) - 1], start=1):
        if not check.accepts(values[index]):
            raise WireError(
                f"{layout.message.__name__}.{layout.names[index - 1]} is {_short(values[index])}",
                allowed=check.allowed,
            )


def _decode_data(values: list[Any], payload: Payload) -> Data:
    piece = values[15]
    if piece is not None:
        values[15] = (tuple(piece[0]), tuple(piece[1]))
    values.append(payload)
    data = Data(*values[1:])
    size = len(payload)
    if data.fragment >= data.fragments:
        raise WireError(f"fragment {data.fragment} of {data.fragments}", allowed="less than that")
    if data.offset + size > data.payload_bytes or size == 0:
        raise WireError(
            f"a fragment of {size} bytes at {data.offset} of a batch of {data.payload_bytes}",
            allowed="1 byte or more, inside the batch",
        )
    if data.sample_ids is not None and (data.fragment or len(data.sample_ids) != 8 * data.rows):
        raise WireError(
            f"{len(data.sample_ids)} bytes of sample_ids for {data.rows} rows "
            f"in fragment {data.fragment}",
            allowed="8 bytes a row, in fragment 0 only",
        )
    return data


def _decode_schema(values: list[Any], crc32: int) -> Schema:
    if not 1 <= len(values) <= MAX_FIELDS:
        raise WireError(f"the schema has {len(values)} fields", allowed=f"1 to {MAX_FIELDS}")
    try:
        schema = Schema(tuple(_decode_field(value) for value in values))
    except WireError:
        raise
    except ProducerError as error:
        raise WireError(
            f"the schema is not usable: {error.message}", allowed=error.allowed
        ) from None
    if schema.as_wire() != values:
        raise WireError("the schema's fields are out of order", allowed="ordered by name")
    if schema.crc32 != crc32:
        raise WireError(f"schema_crc32 is {crc32}", allowed=f"{schema.crc32} for this schema")
    return schema


def _decode_field(value: Any) -> Field:
    if not (type(value) is list and len(value) == 3):
        raise WireError(f"a field of the schema is {_short(value)}", allowed="[name, dtype, shape]")
    name, dtype, shape = value
    if not (type(name) is str and type(dtype) is str and type(shape) is list):
        raise WireError(f"a field of the schema is {_short(value)}", allowed="[text, text, list]")
    if len(shape) > MAX_RANK or not all(type(v) is int and 0 < v < 2**48 for v in shape):
        raise WireError(
            f"field {_short(name)} has shape {_short(shape)}",
            allowed=f"up to {MAX_RANK} whole numbers of 1 or more",
        )
    return Field(name, dtype, tuple(shape))


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."
