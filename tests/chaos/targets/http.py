"""The HTTP server: any bytes down a real socket, then the end of writing."""

from __future__ import annotations

import functools
import re
import socket
from concurrent.futures import Future
from typing import Any

from prometheus_client import CollectorRegistry

from insitu_service.http.application import create_app
from insitu_service.http.server import HttpServer, serve_http
from insitu_service.monitoring.collector import expose

_ANSWER_SECONDS = 5.0
_TOKEN = "token"
_STATUS = re.compile(rb"HTTP/1\.1 (\d\d\d)")


def run(data: bytes) -> None:
    """No answer but a whole one, none that says 500, and the server lives on."""
    server = _server()
    with socket.create_connection(("127.0.0.1", server.port), timeout=_ANSWER_SECONDS) as line:
        answer = _exchange(line, data)
    for status in _STATUS.findall(answer):
        assert status != b"500", (data, answer)
    if data[:1] == b"\0":  # now and then; every request would double the cost
        with socket.create_connection(("127.0.0.1", server.port), timeout=_ANSWER_SECONDS) as line:
            assert b"200" in _exchange(line, b"GET /livez HTTP/1.0\r\n\r\n")


def _exchange(line: socket.socket, data: bytes) -> bytes:
    """All that comes back until the server hangs up; it may do so while we write."""
    answer = bytearray()
    try:
        line.sendall(data)
        line.shutdown(socket.SHUT_WR)
        while part := line.recv(65536):
            answer += part
    except (ConnectionResetError, BrokenPipeError):
        pass
    return bytes(answer)


@functools.cache
def _server() -> HttpServer:
    """One for all inputs, with commands that are carried out at once."""

    def post(command: str, arguments: dict[str, Any]) -> Future[dict[str, Any]]:
        done: Future[dict[str, Any]] = Future()
        done.set_result({"command": command, **arguments})
        return done

    app = create_app(
        exposition=functools.partial(expose, CollectorRegistry()),
        status=lambda: {"service": {"name": "<fuzzed>", "state": "running"}},
        ready=list,
        alive=lambda: True,
        post=post,
        token=_TOKEN,
    )
    return serve_http(app, "127.0.0.1", 0)
