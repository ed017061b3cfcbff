"""Running the HTTP application in a thread of its own, on a port that is bound before."""

from __future__ import annotations

import socket
import threading
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from insitu.errors import InternalError, OperatorError

_START_SECONDS = 30.0


class PortError(OperatorError):
    """The address of the HTTP server cannot be had."""


def bind_listener(host: str, port: int) -> socket.socket:
    """A socket that listens, so that a port in use is found before anything else starts.

    Args:
        host: name or address, IPv4 or IPv6.
        port: 0 takes any free one.

    Raises:
        PortError: with what to do about it.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _unavailable(host, port, error) from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)  # without it two services may bind the same port
    except OSError as error:
        listener.close()
        raise _unavailable(host, port, error) from None
    return listener


def _unavailable(host: str, port: int, error: OSError) -> PortError:
    return PortError(
        f"http port {port} on {host!r} cannot be bound: {error.strerror or error}",
        consequence="the service does not start",
        remedy="end whatever holds the port, or choose another with --set http.port=N",
    )


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.answers = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.answers.set()


class HttpServer:
    """Answers requests from its own thread until closed. Handles no signals.

    Args:
        app: the application.
        listener: a listening socket, see `bind_listener`; closed with the server.
    """

    def __init__(self, app: ASGIApp, listener: socket.socket) -> None:
        self._listener = listener
        self._server = _Server(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                loop="asyncio",
                http="h11",
                ws="none",
                server_header=False,
                limit_concurrency=128,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=2,
            )
        )
        self._thread = threading.Thread(target=self._run, name="insitu-http", daemon=True)
        self._thread.start()
        if not self._server.answers.wait(_START_SECONDS):
            raise InternalError(f"the HTTP server did not start within {_START_SECONDS:g} s")

    def _run(self) -> None:
        self._server.run(sockets=[self._listener])

    @property
    def port(self) -> int:
        """The port that it answers on."""
        address: tuple[Any, ...] = self._listener.getsockname()
        return int(address[1])

    @property
    def url(self) -> str:
        """Its address without a slash at the end."""
        host = self._listener.getsockname()[0]
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def close(self, timeout_seconds: float = 5.0) -> None:
        """Answer what is under way, for at most so long, then end. Safe to call twice."""
        self._server.should_exit = True
        self._thread.join(timeout_seconds)
        if self._thread.is_alive():
            self._server.force_exit = True
            self._thread.join(timeout_seconds)
        self._listener.close()


def serve_http(app: ASGIApp, host: str, port: int) -> HttpServer:
    """Bind, then answer in a thread; `PortError` when the address cannot be had."""
    return HttpServer(app, bind_listener(host, port))
