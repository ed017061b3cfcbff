"""The decoder of messages: two bytes of length, that many of header, then the second frame."""

from __future__ import annotations

from chaos.decoder_fuzz import outcome


def run(data: bytes) -> None:
    """A message or a `WireError`; and what is a message is the same message again."""
    size = int.from_bytes(data[:2], "little")
    header, rest = data[2 : 2 + size], data[2 + size :]
    outcome([header, rest] if rest else [header])


def packed(frames: list[bytes]) -> bytes:
    """Frames as this target reads them."""
    return len(frames[0]).to_bytes(2, "little") + b"".join(frames)
