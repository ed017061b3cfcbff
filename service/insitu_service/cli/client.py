"""Talking to a running service over HTTP, with the standard library alone."""

from __future__ import annotations

import json
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
        token: the secret for control commands, if it wants one.
    """

    def __init__(self, url: str, token: str | None = None) -> None:
        if not url.startswith(("http://", "https://")):
            raise OperatorError(f"--url is {url!r}", allowed="http://HOST:PORT")
        self._url = url.rstrip("/")
        self._token = token

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
        # no proxy of the environment: the service is where the operator says it is
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=timeout_seconds) as response:
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


def connect(url: str, token_file: Path | None) -> ServiceClient:
    """A client with the secret from a file, if there is one."""
    from insitu.config.machine import read_token

    return ServiceClient(url, None if token_file is None else read_token(token_file))


def _refusal(url: str, error: urllib.error.HTTPError) -> UnreachableError:
    try:
        told = json.load(error)["error"]
        parts = {part: str(told.get(part, "")) for part in ("allowed", "consequence", "remedy")}
        return UnreachableError(str(told["message"]), **parts)
    except (ValueError, KeyError, TypeError, AttributeError):
        return UnreachableError(f"{url} answers {error.code} {error.reason}")
