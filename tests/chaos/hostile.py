"""A peer that wants to hurt: garbage, floods of HELLO, oversized frames, batches without an end.

    python -m chaos.hostile OPTIONS.json

Words on its input: `go` and `pause`, and `finish`; each is answered by a line of JSON with what it
has done so far. It has no key, so it takes no other producer's name: that is what keys are for.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq

from chaos.rows import SCHEMA, STREAM
from insitu.wire.codec import decode, encode
from insitu.wire.messages import PROTOCOL_VERSION, Data, Hello, Message, Ping, Welcome
from raw_peer import RawPeer, frame

_GARBAGE = (b"\x00" * 100, b"\xc1", b"\x93\x05\x01", b"", os.urandom(3000))
_NAME = "hostile"
#: of one kind, before it turns to the next
_BURST = 64
#: connections that it holds open without a word
_SILENT = 32
#: what the kernel may keep of an oversized frame before it blocks
_BITE_BYTES = 64 << 10


@dataclass(frozen=True)
class Hostility:
    """What the process is told.

    Args:
        messages_per_second: that it tries to send; it never waits for an answer.
        oversized_bytes: of a frame, more than the service takes.
    """

    endpoint: str
    messages_per_second: float = 2000.0
    oversized_bytes: int = 64 << 20
    kinds: str = ""
    seed: int = 1


class Hostile:
    """Does one bad thing after another, as fast as it was told and as sockets take it."""

    def __init__(self, told: Hostility) -> None:
        self.did: Counter[str] = Counter()
        self._told = told
        self._random = random.Random(told.seed)
        self._context: zmq.Context[Any] = zmq.Context()
        self._greeter, self._garbler, self._talker = (self._dealer() for _ in range(3))
        self._session = self._epoch = 0
        self._silent: list[socket.socket] = []
        self._steps = self._endless()

    def act(self) -> None:
        """One bad thing."""
        kind = next(self._steps)
        with contextlib.suppress(OSError, zmq.ZMQError):  # cut off, or not let in: that is right
            getattr(self, f"_{kind}")()
            self.did[kind] += 1

    def rest(self) -> None:
        """Nothing bad for a while; what is open is closed."""
        for each in self._silent:
            each.close()
        self._silent.clear()

    def close(self) -> None:
        self.rest()
        self._context.destroy(linger=0)

    def _dealer(self) -> zmq.Socket[bytes]:
        dealer = self._context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.connect(self._told.endpoint)
        return dealer

    def _endless(self) -> Iterator[str]:
        while True:
            if self._told.kinds:
                yield self._told.kinds
                continue
            for kind in ("greeting", "garbage", "unfinished", "ping"):
                for _ in range(_BURST):
                    yield kind
            yield from ("oversized", "cut_short", "silence", "silence")

    # -- what it does ------------------------------------------------------------------------

    def _greeting(self) -> None:
        self._epoch += 1
        self._send(self._greeter, self._hello(f"{_NAME}-greeter", self._epoch))
        self._drain(self._greeter)

    def _garbage(self) -> None:
        self._garbler.send(self._random.choice(_GARBAGE), zmq.NOBLOCK)
        self._drain(self._garbler)

    def _unfinished(self) -> None:
        """The first fragment of a batch, again and again, and far beyond credit."""
        if not self._session:
            self._send(self._talker, self._hello(_NAME, 1))
            if self._talker.poll(20):
                answer = decode(self._talker.recv_multipart())
                self._session = answer.session if isinstance(answer, Welcome) else 0
        rows = 64
        size = rows * SCHEMA.row_bytes
        seq = self._random.choice((1, 1, 2, 3, 10**6))
        payload = bytes(size // 2)
        data = Data(
            self._session, seq, 0, 2, rows, 0, size, 0, 0, 1, None, "", None, 0, None, payload
        )  # fmt: skip
        self._send(self._talker, data)

    def _ping(self) -> None:
        self._send(self._talker, Ping(self._session, 1, 1 << 40, 0, 0, 0.0))
        self._drain(self._talker)

    def _oversized(self) -> None:
        with RawPeer(self._told.endpoint) as peer:
            head = b"\x02" + struct.pack(">Q", self._told.oversized_bytes)
            peer.socket.sendall(head + bytes(_BITE_BYTES))

    def _cut_short(self) -> None:
        """A frame that says how long it is, and ends before."""
        with RawPeer(self._told.endpoint) as peer:
            peer.socket.sendall(frame(bytes(100), more=False)[:50])

    def _silence(self) -> None:
        """A connection that never shakes hands."""
        self._silent.append(RawPeer(self._told.endpoint, "nothing").socket)
        if len(self._silent) > _SILENT:
            self._silent.pop(0).close()

    def _hello(self, name: str, epoch: int) -> Hello:
        return Hello(
            PROTOCOL_VERSION, name, epoch, STREAM, SCHEMA, SCHEMA.crc32, (), "", "", "", 1, 0
        )  # fmt: skip

    @staticmethod
    def _send(dealer: zmq.Socket[bytes], message: Message) -> None:
        dealer.send_multipart(encode(message), zmq.NOBLOCK)

    def _drain(self, dealer: zmq.Socket[bytes]) -> None:
        """Answers are thrown away; who never reads would only fill its own socket."""
        with contextlib.suppress(zmq.Again):
            while True:
                dealer.recv_multipart(zmq.NOBLOCK)


def _live(told: Hostility) -> None:
    hostile, going, behind = Hostile(told), False, 0.0
    last = time.monotonic()
    while True:
        ready, _, _ = select.select([sys.stdin], [], [], 0.005 if going else 60.0)
        if ready:
            word = sys.stdin.readline().strip()
            going, last, behind = word == "go", time.monotonic(), 0.0
            if not going:
                hostile.rest()
            print(json.dumps({**hostile.did, "cpu_seconds": time.process_time()}), flush=True)
            if word in ("finish", ""):
                return hostile.close()
        now = time.monotonic()
        behind, last = min(behind + (now - last) * told.messages_per_second, 1000.0), now
        while going and behind >= 1.0:
            hostile.act()
            behind -= 1.0


if __name__ == "__main__":
    _live(Hostility(**json.loads(Path(sys.argv[1]).read_text())))
