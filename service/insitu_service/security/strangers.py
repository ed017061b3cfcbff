"""Strangers: connections without a session. How many, for how long, and how much they may send.

A peer can connect and say nothing, or send a message that never ends: ZeroMQ collects it all and
shows nothing of it. So connections are watched from below, by their file descriptors, and one
that goes too far is shut down. Shutting down only ends a connection; should the descriptor by
then belong to another one, that one reconnects and loses nothing.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import TypeVar

_TCP_INFO = getattr(socket, "TCP_INFO", None) if sys.platform == "linux" else None
Answer = TypeVar("Answer")
NOTHING: Mapping[int, int] = {}
#: where `tcpi_bytes_received` lies in Linux's struct tcp_info
_RECEIVED = struct.Struct("=128xQ")


@dataclass(slots=True)
class _Connection:
    since: float  # when it began to be a stranger
    bytes_then: int | None = 0  # that had come by then; None: to be looked up
    heard_at: float = 0.0  # of its session's last message, 0 for a stranger


class Strangers:
    """Every open connection, and which of them must end.

    Args:
        most: connections open at once.
        greeting_seconds: a stranger's time to get a session.
        most_bytes: that a stranger may send, and that one message may have.
    """

    def __init__(self, *, most: int, greeting_seconds: float, most_bytes: int) -> None:
        self._most = most
        self._greeting_seconds = greeting_seconds
        self._most_bytes = most_bytes
        self._open: dict[int, _Connection] = {}

    def __len__(self) -> int:
        return len(self._open)

    def accepted(self, descriptor: int, now: float) -> None:
        """A connection was opened."""
        self._open.pop(descriptor, None)
        self._open[descriptor] = _Connection(now)

    def ended(self, descriptor: int) -> None:
        """A connection was closed."""
        self._open.pop(descriptor, None)

    def to_cut(
        self, heard: dict[int, float], now: float, granted_bytes: Mapping[int, int] = NOTHING
    ) -> list[tuple[int, str]]:
        """Connections that must end, and why.

        Args:
            heard: when each connection with a session was last heard.
            granted_bytes: what each of these may send by its credit; it may all have come while
                we were busy with something else, such as a slow disk.
        """
        cuts = dict.fromkeys(self._surplus(heard.keys()), "too_many")
        for descriptor, connection in self._open.items():
            at = heard.get(descriptor, 0.0)
            if at != connection.heard_at:  # a message came, or the session began or ended
                connection.since = now
                connection.heard_at = at
                connection.bytes_then = received_bytes(descriptor)
            elif connection.bytes_then is None:
                connection.bytes_then = received_bytes(descriptor)
            elif self._sent(descriptor) > self._most_bytes + granted_bytes.get(descriptor, 0):
                cuts.setdefault(descriptor, "too_much")
            elif not at and now - connection.since > self._greeting_seconds:
                cuts.setdefault(descriptor, "silent")
        for descriptor in cuts:
            self._open.pop(descriptor, None)
        return list(cuts.items())

    def _sent(self, descriptor: int) -> int:
        """Bytes since it was heard last."""
        return received_bytes(descriptor) - (self._open[descriptor].bytes_then or 0)

    def excuse(self, seconds: float) -> None:
        """We looked away for so long: nobody's time went on, and much may wait to be handled."""
        for connection in self._open.values():
            connection.since += seconds
            connection.bytes_then = None

    def _surplus(self, with_session: Set[int]) -> list[int]:
        """The oldest strangers, as many as there are connections too many."""
        surplus = len(self._open) - self._most
        if surplus <= 0:
            return []
        strangers = [each for each in self._open if each not in with_session]
        return strangers[:surplus]


def cut(descriptor: int) -> None:
    """End a connection; ZeroMQ then closes it."""
    _with_socket(descriptor, lambda it: it.shutdown(socket.SHUT_RDWR))


def received_bytes(descriptor: int) -> int:
    """Bytes that came by a tcp connection since it began; 0 where the system does not tell."""
    return _with_socket(descriptor, _received) or 0


def _received(connection: socket.socket) -> int:
    if _TCP_INFO is None or connection.family not in (socket.AF_INET, socket.AF_INET6):
        return 0
    info = connection.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _RECEIVED.size)
    return int(_RECEIVED.unpack(info)[0]) if len(info) == _RECEIVED.size else 0


def _with_socket(descriptor: int, act: Callable[[socket.socket], Answer]) -> Answer | None:
    try:
        borrowed = socket.socket(fileno=descriptor)
    except OSError:
        return None  # it is closed by now
    try:
        return act(borrowed)
    except OSError:
        return None
    finally:
        borrowed.detach()
