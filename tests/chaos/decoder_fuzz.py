"""Mutated messages through the decoder: each is a message or a `WireError`, soon, and that is all.

    python -m chaos.decoder_fuzz 10000000

What decodes is also encoded and decoded again: two readings of one message would be a way around
the checks.
"""

from __future__ import annotations

import gc
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

from chaos.mutation import mutated_frames
from chaos.resources import resident_bytes
from insitu.wire.codec import decode, encode
from insitu.wire.messages import WireError
from wire_examples import EXAMPLES, golden_frames

#: messages before memory counts: caches and arenas are full then
_WARM_MESSAGES = 50_000
_CLOCKED_MESSAGES = 1000


@dataclass
class DecoderFigures:
    """What became of the messages."""

    messages: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)  # message class or error -> count
    slowest_seconds: float = 0.0  # a thousand messages, as they came
    grown_bytes: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        refused = self.outcomes["WireError"] + self.outcomes["VersionError"]
        return (
            f"decoder: {self.messages:,} mutated messages in {self.seconds:.0f} s: "
            f"{refused:,} refused, {self.messages - refused:,} decoded; slowest thousand "
            f"{1000 * self.slowest_seconds:.0f} ms; resident memory grew {self.grown_bytes:,} bytes"
        )


def fuzz_decoder(messages: int, seed: int) -> DecoderFigures:
    """Decode `messages` mutated messages; what decode may not raise comes out of here."""
    figures, source = DecoderFigures(), random.Random(seed)
    whole = [golden_frames(name) for name in EXAMPLES]
    started, before = time.monotonic(), 0
    while figures.messages < messages:
        if before == 0 and figures.messages >= min(_WARM_MESSAGES, messages // 2):
            gc.collect()
            before = resident_bytes()
        count = min(_CLOCKED_MESSAGES, messages - figures.messages)
        began = time.monotonic()
        for _ in range(count):
            frames = mutated_frames(source, whole[int(source.random() * len(whole))])
            figures.outcomes[outcome(frames)] += 1
        figures.slowest_seconds = max(figures.slowest_seconds, time.monotonic() - began)
        figures.messages += count
    gc.collect()
    figures.grown_bytes = resident_bytes() - before
    figures.seconds = time.monotonic() - started
    return figures


def outcome(frames: list[bytes]) -> str:
    """The class that the frames decode to, or of the error that says why they do not."""
    try:
        message = decode(frames)
    except WireError as error:
        return type(error).__name__
    again = decode(encode(message))
    assert again == message, (message, again)
    return type(message).__name__


if __name__ == "__main__":
    print(fuzz_decoder(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1))
