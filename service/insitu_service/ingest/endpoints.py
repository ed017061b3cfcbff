"""The addresses that producers connect to: bound, or refused with a word to the operator."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Sequence
from dataclasses import dataclass

import zmq

from insitu.errors import OperatorError

#: named to the gatekeeper; ZeroMQ asks it about every connection of a socket that has one
_DOMAIN = b"insitu"


@dataclass(frozen=True)
class SocketTerms:
    """What a socket asks of its peers before they say anything.

    Args:
        secret_key: of CURVE, which then guards all tcp endpoints; None for no encryption. A
            socket file needs none: its mode says who may connect.
        max_message_bytes: a connection is cut at a longer frame.
        max_queued_messages: of one connection, before it is not read from.
        handshake_seconds: until which a connection must stand.
    """

    secret_key: str | None = None
    max_message_bytes: int = 4 << 20
    max_queued_messages: int = 256
    handshake_seconds: float = 15.0


class EndpointError(OperatorError):
    """An address of the stream cannot be had."""


def bind_router(
    context: zmq.Context[zmq.Socket[bytes]], endpoints: Sequence[str], terms: SocketTerms
) -> tuple[zmq.Socket[bytes], list[str]]:
    """A ROUTER on all endpoints, and the addresses it got (`tcp://*:*` takes a free port).

    Its connections wait until a `Gatekeeper` of the same context admits them.

    Raises:
        EndpointError: an endpoint cannot be had; names it.
    """
    router: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.ROUTER_MANDATORY, 1)
    router.setsockopt(zmq.LINGER, 0)
    router.setsockopt(zmq.MAXMSGSIZE, terms.max_message_bytes)
    router.setsockopt(zmq.RCVHWM, terms.max_queued_messages)
    router.setsockopt(zmq.IPV6, 1)
    router.setsockopt(zmq.TCP_KEEPALIVE, 1)
    router.setsockopt(zmq.HANDSHAKE_IVL, int(1000 * terms.handshake_seconds))
    router.setsockopt(zmq.ZAP_DOMAIN, _DOMAIN)
    router.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # without a gatekeeper nobody comes in
    bound = []
    try:
        for endpoint in endpoints:
            _encrypt(router, endpoint, terms.secret_key)
            _bind(router, endpoint)
            bound.append(router.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0"))
    except EndpointError:
        router.close()
        raise
    return router, bound


def _encrypt(router: zmq.Socket[bytes], endpoint: str, secret_key: str | None) -> None:
    """Set what the next bind takes with it: CURVE for tcp, and nothing for a socket file."""
    if secret_key is None:
        return
    if endpoint.startswith("tcp://"):
        router.curve_secretkey = secret_key.encode()
        router.curve_server = True
    else:
        router.curve_server = False


def _bind(router: zmq.Socket[bytes], endpoint: str) -> None:
    scheme, _, address = endpoint.partition("://")
    if scheme == "ipc" and address != "*" and not address.startswith("@"):
        _check_path(endpoint, address)
    try:
        router.bind(endpoint)
    except zmq.ZMQError as error:
        raise _unavailable(endpoint, error.strerror or str(error)) from error


def _check_path(endpoint: str, path: str) -> None:
    """Refuse a path that somebody needs: ZeroMQ deletes whatever lies there before it binds.

    What a killed service left behind is a socket that nobody listens at; that one may go.
    """
    directory = os.path.dirname(path) or "."
    if not os.path.isdir(directory):
        raise _unavailable(endpoint, f"there is no directory {directory!r}", "make the directory")
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unavailable(endpoint, error.strerror or str(error)) from error
    if not stat.S_ISSOCK(mode):
        raise _unavailable(endpoint, f"{path!r} is there and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        code = probe.connect_ex(path)
    if code not in (errno.ECONNREFUSED, errno.ENOENT):
        raise _unavailable(endpoint, "another process listens there")


def _unavailable(
    endpoint: str, why: str, remedy: str = "end or move away whatever holds it"
) -> EndpointError:
    return EndpointError(
        f"stream endpoint {endpoint!r} cannot be bound: {why}",
        consequence="the service does not start",
        remedy=f"{remedy}, or choose another in stream.endpoints",
    )
