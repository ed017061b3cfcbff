"""The gatekeeper: who may connect at all, asked by ZeroMQ before a connection exists (ZAP).

ZeroMQ has checked by then that the peer holds the secret of the public key that it shows; whether
that key is allowed is asked here, over an inproc socket (RFC 27). The answer carries the key as
the connection's user id, and every later message of the connection has it. Nothing of a
connection that is refused reaches the reception.

pyzmq's own Authenticator is not used: it needs a thread or an event loop of its own, logs keys
and addresses at debug level, and neither limits the rate nor binds a key to anything.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Any

import zmq
from zmq.utils import z85

from insitu_service.ingest.intake import Intake
from insitu_service.security.allow_list import NO_KEY, AllowList
from insitu_service.security.rate_limit import RateLimit

_log = logging.getLogger("insitu.ingest")

_ADDRESS = "inproc://zeromq.zap.01"
_MOST_ANSWERS = 256
_ADMITTED, _REFUSED, _BUSY = b"200", b"400", b"500"


class Gatekeeper:
    """Answers ZeroMQ's questions; used by the ingest thread only.

    Args:
        context: of the sockets that it guards; has one gatekeeper.
        allow_list: keys that may connect; None where no keys are asked for.
        handshakes_per_second: see `RateLimit`.
        intake: where refusals are counted, by reason.
    """

    def __init__(
        self,
        context: zmq.Context[Any],
        allow_list: AllowList | None,
        *,
        handshakes_per_second: float,
        intake: Intake,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.socket: zmq.Socket[bytes] = context.socket(zmq.REP)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.bind(_ADDRESS)
        self._allow_list = allow_list
        self._limit = RateLimit(handshakes_per_second)
        self._intake = intake
        self._clock = clock

    def answer(self) -> None:
        """Answer what is asked now."""
        for _ in range(_MOST_ANSWERS):
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            code, user = self._judge(frames)
            request = frames[1] if len(frames) > 1 else b""
            text = b"" if code == _ADMITTED else b"refused"
            self.socket.send_multipart([b"1.0", request, code, text, user.encode(), b""])

    def close(self) -> None:
        self.socket.close()

    def _judge(self, frames: list[bytes]) -> tuple[bytes, str]:
        """The status code, and the user id of a connection that is admitted."""
        if len(frames) < 6 or frames[0] != b"1.0":
            return self._refuse("protocol", "an unknown version of ZAP"), ""
        address, mechanism = frames[3].decode(errors="replace").removeprefix("::ffff:"), frames[5]
        if not self._limit.allows(self._clock()):
            return self._refuse("rate", "too many connections a second", _BUSY), ""
        if mechanism == b"CURVE" and self._allow_list is not None:
            return self._judge_key(frames[6], address)
        if mechanism != b"NULL":
            return self._refuse("mechanism", f"mechanism {mechanism!r}"), ""
        if self._allow_list is not None and not _is_us(address):
            return self._refuse("user", "another user of this machine, without a key"), ""
        return _ADMITTED, NO_KEY

    def _judge_key(self, key: bytes, address: str) -> tuple[bytes, str]:
        text = z85.encode(key).decode()
        name = self._allow_list.name_of(text) if self._allow_list is not None else None
        if name is None:
            return self._refuse("unknown_key", f"a key that is not allowed, from {address}"), ""
        _log.debug("client %s connects from %s", name, address)
        return _ADMITTED, text

    def _refuse(self, reason: str, text: str, code: bytes = _REFUSED) -> bytes:
        self._intake.refused_handshakes[reason] += 1
        extra = {"key": f"handshake {reason}"}
        _log.warning("a connection is refused (%s): %s", reason, text, extra=extra)
        return code


def _is_us(address: str) -> bool:
    """Whether a peer at a socket file is this user or root: ZeroMQ tells `localhost:UID:GID:PID`.

    Example:
        >>> _is_us(f"localhost:{os.geteuid()}:0:1"), _is_us("localhost:54321:0:1"), _is_us("")
        (True, False, False)
    """
    parts = address.split(":")
    return len(parts) == 4 and parts[0] == "localhost" and parts[1] in ("0", str(os.geteuid()))
