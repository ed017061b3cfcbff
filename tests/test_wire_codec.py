"""Every message, written and read: golden bytes, round trips, and everything that is no message."""

from __future__ import annotations

import re
import zlib
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from insitu.wire import checksum
from insitu.wire.codec import MAX_HEADER_BYTES, decode, encode
from insitu.wire.messages import MESSAGES, Data, Hello, Message, VersionError, WireError
from wire_examples import EXAMPLES, GOLDEN, ROW, golden_frames, messages

PAGE = Path(__file__).parent.parent / "insitu" / "docs" / "wire.md"


def frames_of(message: Message) -> list[bytes]:
    return [bytes(frame) for frame in encode(message)]


def names_of(name: str) -> list[str]:
    """The elements of an example behind the kind; those at the end that may be left out are."""
    count = len(msgpack.unpackb(golden_frames(name)[0])) - 1
    return [field.name for field in fields(EXAMPLES[name]) if field.name != "payload"][:count]


def test_every_message_has_an_example() -> None:
    assert {type(message) for message in EXAMPLES.values()} == set(MESSAGES)
    assert {path.stem for path in GOLDEN.glob("*.hex")} == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_golden_bytes(name: str) -> None:
    assert frames_of(EXAMPLES[name]) == golden_frames(name)
    assert decode(golden_frames(name)) == EXAMPLES[name]


def test_the_example_payload_carries_its_checksum() -> None:
    data = EXAMPLES["data"]
    assert isinstance(data, Data)
    assert zlib.crc32(ROW) == data.checksum == checksum.checksum("crc32", data.payload)


@given(messages)
def test_round_trip(message: Message) -> None:
    assert decode(encode(message)) == message
    assert decode([memoryview(frame) for frame in frames_of(message)]) == message


@given(messages, st.data())
def test_a_truncated_header_is_a_wire_error(message: Message, data: st.DataObject) -> None:
    header, *rest = frames_of(message)
    cut = data.draw(st.integers(0, len(header) - 1))
    with pytest.raises(WireError):
        decode([header[:cut], *rest])


@given(messages, st.binary(min_size=1, max_size=20))
def test_junk_behind_a_message_is_a_wire_error(message: Message, junk: bytes) -> None:
    header, *rest = frames_of(message)
    with pytest.raises(WireError):
        decode([header + junk, *rest])
    with pytest.raises(WireError):
        decode([header, *rest, junk])


@given(st.lists(st.binary(max_size=80), max_size=3))
def test_junk_is_a_wire_error(frames: list[bytes]) -> None:
    with pytest.raises(WireError):
        decode(frames)


@given(messages, st.data())
def test_a_flipped_byte_is_a_message_or_a_wire_error(message: Message, data: st.DataObject) -> None:
    header, *rest = frames_of(message)
    broken = bytearray(header)
    place = data.draw(st.integers(0, len(broken) - 1))
    broken[place] ^= data.draw(st.integers(1, 255))
    with suppress(WireError):
        decode([bytes(broken), *rest])


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=9)
    | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=8,
)  # fmt: skip


@given(messages, st.data(), values)
def test_a_strange_element_is_a_message_or_a_wire_error(
    message: Message, data: st.DataObject, value: object
) -> None:
    header, *rest = frames_of(message)
    elements = msgpack.unpackb(header)
    elements[data.draw(st.integers(0, len(elements) - 1))] = value
    with suppress(WireError):
        decode([msgpack.packb(elements), *rest])


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_element_is_checked_by_name(name: str) -> None:
    """Nothing is accepted in the place of a value of another type."""
    header, *rest = golden_frames(name)
    elements = msgpack.unpackb(header)
    for index, field_name in enumerate(names_of(name), start=1):
        strange = [*elements]
        strange[index] = {"a": 1}
        with pytest.raises(WireError):
            decode([msgpack.packb(strange), *rest])
        strange[index] = [[["strange"]]]
        with pytest.raises(WireError, match=field_name if field_name != "version" else "version"):
            decode([msgpack.packb(strange), *rest])


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_element_too_few_or_too_many_is_a_wire_error(name: str) -> None:
    """But for row counts at the end, which are told to those only who understand them."""
    header, *rest = golden_frames(name)
    elements = msgpack.unpackb(header)
    optional = {"welcome": 2, "nack": 1}.get(name.partition("_")[0], 0)
    told = optional if "row_count" in name else 0
    for change in range(-3, 4):
        other = elements[:change] if change < 0 else [*elements, *[None] * change]
        if change and not -told <= change <= optional - told:
            with pytest.raises(WireError):
                decode([msgpack.packb(other), *rest])
        else:
            assert type(decode([msgpack.packb(other), *rest])) is type(EXAMPLES[name])


def test_another_version_is_told_whatever_else_changed() -> None:
    with pytest.raises(VersionError, match="version 9") as caught:
        decode([msgpack.packb([1, 9, {"all": "else"}, b"new"])])
    assert caught.value.version == 9


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fragment": 1}, "fragment 1 of 1"),
        ({"payload_bytes": 31}, "inside the batch"),
        ({"payload": b""}, "1 byte or more"),
        ({"sample_ids": b"12345678" * 2}, "8 bytes a row"),
        ({"rows": 65_537}, "rows is 65537"),
        ({"rows": 0}, "rows is 0"),
        ({"seq": 0}, "seq is 0"),
        ({"cursor": float("nan")}, "cursor is nan"),
        ({"task": "t" * 129}, "task"),
        ({"flags": 2**32}, "flags"),
    ],
)
def test_data_that_cannot_be(change: dict[str, object], words: str) -> None:
    data = EXAMPLES["data"]
    assert isinstance(data, Data)
    with pytest.raises(WireError, match=words):
        decode(encode(replace(data, **change)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ([], "0 fields"),
        ([["x", "float33", []]], "float33"),
        ([["x y", "float32", []]], "not usable"),
        ([["x", "float32", [0]]], "shape"),
        ([["x", "float32", [2**60]]], "shape"),
        ([["x", "float32", [1] * 17]], "shape"),
        ([["y", "int8", []], ["x", "int8", []]], "out of order"),
        ([["x", "int8", []], ["x", "int8", []]], "twice"),
        ([["x", "int8"]], "field of the schema"),
        ([["x", "int16", []]], "schema_crc32"),
    ],
)
def test_schemas_that_cannot_be(schema: list[object], words: str) -> None:
    elements = msgpack.unpackb(golden_frames("hello")[0])
    elements[5] = schema
    with pytest.raises(WireError, match=words):
        decode([msgpack.packb(elements)])


def test_a_huge_header_is_refused_unread() -> None:
    with pytest.raises(WireError, match="header has"):
        decode([b"\x93" + bytes(MAX_HEADER_BYTES)])


def test_the_page_shows_the_golden_bytes() -> None:
    """The worked examples of the specification are the golden files, byte for byte."""
    page = PAGE.read_text()
    shown = dict(re.findall(r"<!-- golden: (\w+) -->\n\n((?:    [^\n]*\n)+)", page))
    assert set(shown) == set(EXAMPLES)
    for name, block in shown.items():
        digits = "".join(line.split("#")[0] for line in block.splitlines())
        assert bytes.fromhex(digits) == b"".join(golden_frames(name)), name
        labels = re.findall(r"# (\w+)", block)
        named = names_of(name)
        assert labels[: len(named) + 2] == ["array", "kind", *named], name


def test_the_page_has_every_field_of_every_message() -> None:
    page = PAGE.read_text()
    for message in MESSAGES:
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", "", message.__name__).upper()
        section = page.partition(f"### {message.KIND} {words}\n")[2].partition("\n### ")[0]
        named = re.findall(r"^\| \d+ \| `(\w+)` \|", section, re.MULTILINE)
        assert named == [field.name for field in fields(message) if field.name != "payload"], words


def test_the_fastest_checksum_both_have_is_chosen() -> None:
    assert checksum.choose(checksum.capabilities()) == checksum.available()[0]
    assert checksum.choose([]) == "crc32"
    assert "crc32" in checksum.available()


def test_hello_names_the_schema() -> None:
    hello = decode(golden_frames("hello"))
    assert isinstance(hello, Hello)
    assert hello.schema["x"].shape == (2,)
