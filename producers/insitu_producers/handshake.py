"""Handshakes that fail, below the messages: only the monitor of a socket tells of them.

Without this a producer with a wrong key would look like one whose service is absent.
"""

from __future__ import annotations

from dataclasses import dataclass

import zmq
from zmq.utils.monitor import parse_monitor_message

_EVENTS = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)
_NOT_ADMITTED = 400
_KEYS_DIFFER = (
    "the service asks for keys and this producer has none, or the other way round; see "
    "server_key and secret_key_file"
)
_HANGS_UP = (
    "the service hangs up before it has greeted: the server_key is not its own, or what listens "
    "there is no insitu service"
)


@dataclass(frozen=True, slots=True)
class Fault:
    """A handshake that failed.

    Args:
        text: for a person.
        is_final: ZeroMQ will not try again on this socket.
    """

    text: str
    is_final: bool = False


class HandshakeWatch:
    """Looks at what became of a socket's handshakes; used by the socket's thread only."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._watched = socket
        self._monitor: zmq.Socket[bytes] = socket.get_monitor_socket(_EVENTS)

    def fault(self) -> Fault | None:
        """The gravest that was found since the last look."""
        found: Fault | None = None
        while True:
            try:
                told = parse_monitor_message(self._monitor.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                return found
            fault = _fault(int(told["event"]), int(told["value"]))
            if found is None or not found.is_final:
                found = fault

    def close(self) -> None:
        self._watched.disable_monitor()
        self._monitor.close()


def _fault(event: int, value: int) -> Fault:
    if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
        if value == _NOT_ADMITTED:
            return Fault("the service does not admit the key of this client", True)
        return Fault("the service takes no more connections at the moment", True)
    is_final = event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    if value == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH and is_final:
        return Fault(_KEYS_DIFFER, is_final)
    return Fault(_HANGS_UP, is_final)
