"""The addresses that producers connect to: bound, or refused with a word to the operator."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Sequence

import zmq

from insitu.errors import OperatorError

#: beyond this ZeroMQ itself cuts the connection; legal messages are far below
MAX_MESSAGE_BYTES = 64 << 20


class EndpointError(OperatorError):
    """An address of the stream cannot be had."""


def bind_router(
    context: zmq.Context[zmq.Socket[bytes]], endpoints: Sequence[str]
) -> tuple[zmq.Socket[bytes], list[str]]:
    """A ROUTER on all endpoints, and the addresses it got (`tcp://*:*` takes a free port).

    Raises:
        EndpointError: an endpoint cannot be had; names it.
    """
    router: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.ROUTER_MANDATORY, 1)
    router.setsockopt(zmq.LINGER, 0)
    router.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
    router.setsockopt(zmq.RCVHWM, 256)
    router.setsockopt(zmq.IPV6, 1)
    bound = []
    try:
        for endpoint in endpoints:
            _bind(router, endpoint)
            bound.append(router.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0"))
    except EndpointError:
        router.close()
        raise
    return router, bound


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
