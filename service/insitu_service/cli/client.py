"""Talking to a running service over HTTP, with the standard library alone."""

from __future__ import annotations

import json
import os
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from insitu.errors import OperatorError


class UnreachableError(OperatorError):
    """No service answers, or it did not do what it was asked."""


class ServiceClient:
    """One service, by its address.

    Args:
        url: such as http://127.0.0.1:9100.
        token: the secret that it asks for, if it does.
        trust: who may vouch for an https service; by default those whom the system trusts.
    """

    def __init__(
        self, url: str, token: str | None = None, trust: ssl.SSLContext | None = None
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise OperatorError(f"--url is {url!r}", allowed="http://HOST:PORT or https://")
        self._url = url.rstrip("/")
        self._token = token
        # no proxy of the environment, and nowhere else than told: the token goes to one address
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),
            urllib.request.HTTPSHandler(context=trust),
            _NoRedirect(),
        )

    def status(self, timeout_seconds: float = 5.0) -> dict[str, Any]:
        """The state of the service (see `insitu_service.status`)."""
        return self._ask("GET", "/status", None, timeout_seconds)

    def control(
        self, command: str, arguments: dict[str, Any], wait_seconds: float
    ) -> dict[str, Any]:
        """Carry out a command: `{"state": "done", "result": ...}` or `{"state": "pending"}`."""
        path = f"/control/{command}?timeout={wait_seconds:g}"
        return self._ask("POST", path, arguments, wait_seconds + 10)

    def _ask(
        self, method: str, path: str, body: dict[str, Any] | None, timeout_seconds: float
    ) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, method=method)
        request.add_header("Content-Type", "application/json")
        if self._token:
            request.add_header("Authorization", f"Bearer {self._token}")
        try:
            with self._opener.open(request, timeout=timeout_seconds) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                raise _refusal(self._url + path, error) from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise UnreachableError(
                f"no service answers at {self._url}: {reason}",
                remedy="is it running, and is this its http.host and http.port? see --url",
            ) from None
        if not isinstance(answer, dict):
            raise UnreachableError(f"{self._url}{path} answers, but it is no insitu service")
        return answer


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A service never redirects; whoever does would get the token."""

    def redirect_request(self, *_: Any) -> None:
        return None


def connect(url: str, token_file: Path | None, ca_file: Path | None = None) -> ServiceClient:
    """A client with the secret from a file or the environment, if there is one.

    Raises:
        OperatorError: a file cannot be read.
    """
    from insitu.config.secrets import read_token

    environment = os.environ.get("INSITU_TOKEN", "").strip() or None
    token = environment if token_file is None else read_token(token_file)
    return ServiceClient(url, token, None if ca_file is None else _trusting(ca_file))


def _trusting(ca_file: Path) -> ssl.SSLContext:
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(ca_file)
    except OSError as error:
        raise OperatorError(
            f"--ca-file {str(ca_file)!r} cannot be used: {error.strerror or error}",
            allowed="a file of certificates in PEM",
        ) from None
    return context


def _refusal(url: str, error: urllib.error.HTTPError) -> UnreachableError:
    try:
        told = json.load(error)["error"]
        parts = {part: str(told.get(part, "")) for part in ("allowed", "consequence", "remedy")}
        return UnreachableError(str(told["message"]), **parts)
    except (ValueError, KeyError, TypeError, AttributeError):
        return UnreachableError(f"{url} answers {error.code} {error.reason}")
