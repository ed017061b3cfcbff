"""A peer that speaks ZeroMQ's protocol (ZMTP 3.0, NULL) byte by byte, and stops where it likes."""

from __future__ import annotations

import contextlib
import socket
from types import TracebackType
from typing import Self

#: signature, version 3.0, mechanism NULL, as a client
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)


def _property(name: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + len(value).to_bytes(4, "big") + value


def _ready() -> bytes:
    body = b"\x05READY" + _property(b"Socket-Type", b"DEALER") + _property(b"Identity", b"")
    return b"\x04" + bytes([len(body)]) + body


def frame(payload: bytes, *, more: bool) -> bytes:
    """One frame of a message."""
    return (b"\x03" if more else b"\x02") + len(payload).to_bytes(8, "big") + payload


class RawPeer:
    """A bare tcp connection to the stream's endpoint.

    Args:
        shakes: hands as far as `greeting` or `ready`; or not at all.
    """

    def __init__(self, endpoint: str, shakes: str = "ready") -> None:
        host, port = endpoint.removeprefix("tcp://").rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=20)
        if shakes in ("greeting", "ready"):
            self.socket.sendall(GREETING)
            self.read(64)
        if shakes == "ready":
            self.socket.sendall(_ready())
            head = self.read(2)
            self.read(head[1])

    def read(self, count: int) -> bytes:
        """Exactly so many bytes."""
        found = b""
        while len(found) < count:
            data = self.socket.recv(count - len(found))
            if not data:
                raise ConnectionResetError("it hung up")
            found += data
        return found

    def is_cut(self) -> bool:
        """Whether the other side has hung up, by now."""
        self.socket.settimeout(0)
        try:
            return self.socket.recv(4096) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            with contextlib.suppress(OSError):
                self.socket.settimeout(20)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.socket.close()
