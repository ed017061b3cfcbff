"""A peer that speaks the protocol badly: damaged messages, mostly in a session of its own."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import zmq

from chaos.mutation import mutated_frames
from chaos.rows import SCHEMA, STREAM, rows_of
from insitu.wire.checksum import checksum
from insitu.wire.codec import decode, encode
from insitu.wire.messages import (
    Ack,
    Bye,
    Data,
    Fenced,
    Hello,
    Message,
    Nack,
    NoSession,
    Ping,
    Welcome,
)
from insitu.wire.rows import pack_rows
from wire_examples import EXAMPLES

_EXAMPLES = tuple(EXAMPLES.values())
_ANSWER_MS = 200
#: what a damaged HELLO may have led us to; from here on another name is used
_MOST_SEQ = 2**40


class Mutant:
    """Sends damaged messages; reads the answers to know its session and its next batch.

    Args:
        number: tells it from others.
        source: of all that it does.
    """

    def __init__(self, endpoint: str, number: int, source: random.Random) -> None:
        self._source = source
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.connect(endpoint)
        self._number, self._names = number, 0
        self._session, self._seq = 0, 1
        self._payloads = [_packed(number, rows) for rows in (1, 2, 3, 4)]
        self.damaged = self.good = 0  # messages sent

    def send(self) -> None:
        """One damaged message, and before it now and then one that is as it should be."""
        if self._session == 0:
            self._frames(self._hello())
            self._socket.poll(_ANSWER_MS)
            self._read()
        if self._source.random() < 0.2:
            self._frames(self._data(half=self._source.random() < 0.2))
        message = self._message()
        frames = mutated_frames(self._source, [bytes(frame) for frame in encode(message)])
        self._socket.send_multipart(frames or [b""])
        self.damaged += 1
        if self.damaged % 8 == 0:
            self._read()

    def _frames(self, message: Message) -> None:
        self._socket.send_multipart(encode(message))
        self.good += 1

    def close(self) -> None:
        """Leave without a word."""
        self._context.destroy(linger=30_000)

    def _message(self) -> Message:
        kind = self._source.random()
        if kind < 0.05:
            return self._hello()
        if kind < 0.75:
            seq = self._seq
            data = self._data(half=kind < 0.2)
            self._seq = seq  # it is damaged, and so will hardly be taken
            return data
        if kind < 0.85:
            return Ping(self._session, 1, 0, self._seq, 0, 0.0)
        if kind < 0.86:
            return Bye(self._session, self._seq, self._seq, 0, 0.0)
        return _EXAMPLES[int(self._source.random() * len(_EXAMPLES))]

    def _hello(self) -> Hello:
        name = f"mutant-{self._number}-{self._names}"
        return Hello(
            1, name, 1, STREAM, SCHEMA, SCHEMA.crc32, ("checksum:crc32",), "here", "now", "",
            self._seq, 0,
        )  # fmt: skip

    def _data(self, *, half: bool) -> Data:
        """The next batch, or the first half of it, which never gets its second."""
        payload = self._payloads[int(self._source.random() * len(self._payloads))]
        rows = len(payload) // SCHEMA.row_bytes
        flags = int(self._source.random() < 0.05)  # a held-out probe
        whole = Data(
            self._session, self._seq, 0, 1, rows, 4 * self._seq, len(payload), 0,
            checksum("crc32", payload), 0, self._seq, "", None, flags, None, payload,
        )  # fmt: skip
        if not half:
            self._seq += 1
            return whole
        begun = payload[: len(payload) // 2]
        return replace(whole, fragments=2, payload=begun, checksum=checksum("crc32", begun))

    def _read(self) -> None:
        """Take over the session and the number that the service's answers name."""
        while self._socket.poll(0):
            answer = decode(self._socket.recv_multipart())
            if isinstance(answer, Welcome):
                self._session, self._seq = answer.session, answer.next_seq
            elif isinstance(answer, Ack):
                self._seq = max(self._seq, answer.accepted + 1)
            elif isinstance(answer, Nack):
                self._seq = answer.seq + (not answer.resend)
            elif isinstance(answer, NoSession) and answer.session == self._session:
                self._session = 0
            if isinstance(answer, Fenced) or self._seq > _MOST_SEQ:
                self._session, self._seq, self._names = 0, 1, self._names + 1


def _packed(producer: int, rows: int) -> bytes:
    out = np.zeros(rows * SCHEMA.row_bytes, np.uint8)
    pack_rows(SCHEMA, rows_of(producer, 0, rows), out)
    return out.tobytes()
