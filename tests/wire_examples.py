"""One example of every message, and strategies for any message: what the wire's tests share."""

from __future__ import annotations

from pathlib import Path

from hypothesis import strategies as st

from insitu.schema import DTYPES, Schema
from insitu.wire.messages import (
    Ack,
    AckLevel,
    Bye,
    Data,
    Drain,
    Fenced,
    Hello,
    Message,
    Nack,
    NackCode,
    NoSession,
    Ping,
    Pong,
    RefusalCode,
    Refused,
    Welcome,
)

GOLDEN = Path(__file__).parent / "golden" / "wire"
SCHEMA = Schema.of({"x": ("float32", (2,)), "y": ("int64", ())})
ROW = bytes.fromhex("0000803f00000040" + "00" * 8 + "07" + "00" * 15)

EXAMPLES: dict[str, Message] = {
    "hello": Hello(
        1, "rank-0", 1_700_000_000_000_000_000, "plasma", SCHEMA, SCHEMA.crc32,
        ("checksum:xxh3", "checksum:crc32"), "node7", "b00t", "", 1, 0,
    ),
    "welcome": Welcome(
        1, 7, 1, None, 67_108_864, 1024, "received", 1_048_576, 8_388_608, "block", "crc32", 1.0
    ),
    "welcome_row_counts": Welcome(
        1, 8, 1, 12, 0, 0, "logged", 1_048_576, 8_388_608, "block", "xxh3", 1.0, 46, 46
    ),
    "refused": Refused("schema", "field 'y' is missing", False),
    "data": Data(
        7, 1, 0, 1, 1, 0, 32, 0, 0x62CF87E2, 1_700_000_000_000_000_001, 12, "warmup",
        (42).to_bytes(8, "little"), 0, None, ROW,
    ),
    "data_second_fragment": Data(
        7, 2, 1, 2, 2, 1, 64, 48, 1, 1_700_000_000_000_000_002, "step 3", "", None, 2,
        ((0, 16), (64, 64)), ROW[16:],
    ),
    "ack": Ack(7, 2, 2, 1, 67_108_960, 1026),
    "nack": Nack(7, 2, "corrupt", "the checksum differs", True),
    "nack_row_count": Nack(7, 2, "non_finite", "1 of 2 rows", False, 1),
    "ping": Ping(7, 5_000_000_000, 0, 3, 0, 0.25),
    "pong": Pong(7, 5_000_000_000),
    "drain": Drain(7, "the service stops"),
    "fenced": Fenced(1_700_000_000_000_000_009, "a newer producer has this id"),
    "no_session": NoSession(7),
    "bye": Bye(7, 2, 3, 0, 0.25),
}  # fmt: skip


def golden_frames(name: str) -> list[bytes]:
    """The frames of an example: one line of hex a frame."""
    return [bytes.fromhex(line) for line in (GOLDEN / f"{name}.hex").read_text().split()]


count = st.integers(0, 2**63 - 1)
number = st.integers(1, 2**63 - 1)
word = st.integers(0, 2**32 - 1)
name = st.text(max_size=20)
text = st.text(max_size=100)
seconds = st.floats(0, 1e9, allow_nan=False)
cursor = (
    st.none()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(max_size=30)
    | st.floats(allow_nan=False, allow_infinity=False)
)
field_name = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,8}", fullmatch=True)
schema = st.dictionaries(
    field_name,
    st.tuples(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(1, 9), max_size=3).map(tuple)),
    min_size=1,
    max_size=4,
).map(Schema.of)


@st.composite
def hellos(draw: st.DrawFn) -> Hello:
    fields = draw(schema)
    return Hello(
        1, draw(name), draw(count), draw(name), fields, fields.crc32,
        tuple(draw(st.lists(name, max_size=3))), draw(name), draw(name), draw(text),
        draw(number), draw(count),
    )  # fmt: skip


@st.composite
def datas(draw: st.DrawFn) -> Data:
    fragments = draw(st.integers(1, 2**63 - 1))
    fragment = draw(st.integers(0, min(fragments, 2**32) - 1))
    payload = draw(st.binary(min_size=1, max_size=60))
    rows = draw(st.integers(1, 4) | st.just(65_536))
    offset = draw(st.integers(0, 2**62))
    ids = None
    if fragment == 0 and rows <= 4:
        ids = draw(st.none() | st.binary(min_size=8 * rows, max_size=8 * rows))
    axes = draw(st.lists(count, max_size=3).map(tuple))
    piece = draw(st.none() | st.just((axes, axes)))
    return Data(
        draw(count), draw(number), fragment, fragments, rows, draw(count),
        draw(st.integers(offset + len(payload), 2**63 - 1)), offset,
        draw(st.integers(0, 2**64 - 1)), draw(count), draw(cursor), draw(name), ids, draw(word),
        piece, payload,
    )  # fmt: skip


def _any(enum: type) -> st.SearchStrategy[str]:
    return st.sampled_from([member.value for member in enum])  # type: ignore[attr-defined]


messages: st.SearchStrategy[Message] = st.one_of(
    hellos(),
    st.builds(
        Welcome, st.just(1), count, number, cursor, count, count, _any(AckLevel), number,
        number, name, name, seconds, st.none() | count, st.none() | count,
    ),
    st.builds(Refused, _any(RefusalCode), text, st.booleans()),
    datas(),
    st.builds(Ack, count, count, count, count, count, count),
    st.builds(Nack, count, number, _any(NackCode), text, st.booleans(), st.none() | count),
    st.builds(Ping, count, count, count, count, count, seconds),
    st.builds(Pong, count, count),
    st.builds(Drain, count, text),
    st.builds(Fenced, count, text),
    st.builds(NoSession, count),
    st.builds(Bye, count, count, count, count, seconds),
)  # fmt: skip
