"""Running the HTTP application in a thread of its own, on a port that is bound before."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from insitu.config.service import HttpSection
from insitu.errors import InternalError, OperatorError

_START_SECONDS = 30.0
_RENEWAL_SECONDS = 10.0


class PortError(OperatorError):
    """The address of the HTTP server cannot be had."""


@dataclass(frozen=True)
class Certificate:
    """What the server proves itself with over TLS.

    Args:
        certificate_file: PEM, with its chain.
        key_file: its private key, PEM.
    """

    certificate_file: Path
    key_file: Path

    @classmethod
    def of(cls, http: HttpSection) -> Certificate | None:
        """As configured; None for plain HTTP."""
        if http.certificate_file is None or http.key_file is None:
            return None
        return cls(http.certificate_file, http.key_file)


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
        self.loop: asyncio.AbstractEventLoop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self.answers.set()


class HttpServer:
    """Answers requests from its own thread until closed. Handles no signals.

    Args:
        app: the application.
        listener: a listening socket, see `bind_listener`; closed with the server.
        certificate: for TLS 1.2 or newer; None for plain HTTP.
    """

    def __init__(
        self, app: ASGIApp, listener: socket.socket, certificate: Certificate | None = None
    ) -> None:
        self._listener = listener
        self._certificate = certificate
        files: dict[str, Any] = {}
        if certificate is not None:
            files = {
                "ssl_certfile": certificate.certificate_file,
                "ssl_keyfile": certificate.key_file,
            }
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
                **files,
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
        scheme = "http" if self._certificate is None else "https"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}"

    def renew_certificate(self) -> None:
        """Read the certificate's files again, for the connections to come.

        Raises:
            OSError: they cannot be read, or do not go together; the old one stays.
        """
        context: ssl.SSLContext | None = self._server.config.ssl
        if context is not None and self._certificate is not None:
            files = self._certificate.certificate_file, self._certificate.key_file
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*files)  # tried elsewhere first

            async def load() -> None:
                context.load_cert_chain(*files)

            # in the server's own thread: a connection made between certificate and key would get
            # the new one of the first and the old one of the second, and break
            asyncio.run_coroutine_threadsafe(load(), self._server.loop).result(_RENEWAL_SECONDS)

    def close(self, timeout_seconds: float = 5.0) -> None:
        """Answer what is under way, for at most so long, then end. Safe to call twice."""
        self._server.should_exit = True
        self._thread.join(timeout_seconds)
        if self._thread.is_alive():
            self._server.force_exit = True
            self._thread.join(timeout_seconds)
        self._listener.close()


def serve_http(
    app: ASGIApp, host: str, port: int, certificate: Certificate | None = None
) -> HttpServer:
    """Bind, then answer in a thread; `PortError` when the address cannot be had."""
    return HttpServer(app, bind_listener(host, port), certificate)
