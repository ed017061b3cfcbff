"""Metrics, health, status and control over HTTP.

Where a token is set, control needs it, and so does reading what is not declared open. A handler
reads immutable snapshots or posts a command and waits for its future, so nothing here can hold up
a training step.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import math
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from insitu.errors import InsituError, OperatorError
from insitu_service.commands import declaration
from insitu_service.http.landing_page import landing_page

MAX_BODY_BYTES = 64 * 1024
DEFAULT_WAIT_SECONDS = 60.0
MAX_WAIT_SECONDS = 3600.0
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_PAGE_HEADERS = {
    **_HEADERS,
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "Referrer-Policy": "no-referrer",
}

#: Every address that is served, in the order of the documentation.
ADDRESSES: Mapping[str, str] = {
    "GET /": "A page for people: links, state and rates.",
    "GET /metrics": "The metrics, as Prometheus text or OpenMetrics, by the Accept header.",
    "GET /livez": "200 while the learner is alive; 503 when it has stopped or hangs.",
    "GET /readyz": "200 when samples are taken and trained; 503 with the reasons when not.",
    "GET /status": "The whole state as JSON.",
    "POST /control/COMMAND": "Carry out a command; see the table of commands.",
}


#: What may be read without the token, unless the configuration says otherwise.
OPEN_ADDRESSES = ("/metrics", "/livez", "/readyz")


class RequestError(Exception):
    """A request that is answered with an error: its status and what to say."""

    def __init__(self, status: int, error: InsituError) -> None:
        super().__init__(str(error))
        self.status = status
        self.error = error


def create_app(
    *,
    exposition: Callable[[str], tuple[bytes, str]],
    status: Callable[[], Mapping[str, Any]],
    ready: Callable[[], list[str]],
    alive: Callable[[], bool],
    post: Callable[[str, dict[str, Any]], Future[dict[str, Any]]],
    token: str | None,
    open_addresses: Collection[str] = OPEN_ADDRESSES,
) -> Starlette:
    """The application.

    Args:
        exposition: Accept header -> the metrics and their content type.
        status: the state, in plain data.
        ready: why the service is not ready; empty when it is.
        alive: whether the learner makes turns.
        post: command and arguments -> the future of its result.
        token: the secret for control; None when none is needed.
        open_addresses: what is read without it.
    """

    def authorise_reading(request: Request) -> None:
        if token is not None and request.url.path not in open_addresses:
            _authorise(request, token)

    async def page(request: Request) -> Response:
        authorise_reading(request)
        text = landing_page(await run_in_threadpool(status), await run_in_threadpool(ready))
        return HTMLResponse(text, headers=_PAGE_HEADERS)

    async def metrics(request: Request) -> Response:
        authorise_reading(request)
        body, content_type = await run_in_threadpool(exposition, request.headers.get("accept", ""))
        return Response(body, headers={**_HEADERS, "Content-Type": content_type})

    async def livez(request: Request) -> Response:
        authorise_reading(request)
        living = alive()
        return _json({"alive": living}, 200 if living else 503)

    async def readyz(request: Request) -> Response:
        authorise_reading(request)
        problems = await run_in_threadpool(ready)
        return _json({"ready": not problems, "problems": problems}, 503 if problems else 200)

    async def state(request: Request) -> Response:
        authorise_reading(request)
        return _json(await run_in_threadpool(status))

    async def control(request: Request) -> Response:
        _authorise(request, token)
        name, wait_seconds = request.path_params["command"], _wait_seconds(request)
        arguments = _checked(name, await _body(request))
        try:
            future = post(name, arguments)
        except OperatorError as error:
            raise RequestError(503, error) from None
        return await _outcome(name, future, wait_seconds)

    return Starlette(
        routes=[
            Route("/", page),
            Route("/metrics", metrics),
            Route("/livez", livez),
            Route("/readyz", readyz),
            Route("/status", state),
            Route("/control/{command}", control, methods=["POST"]),
        ],
        exception_handlers={RequestError: _request_error, HTTPException: _http_error},
    )


def _authorise(request: Request, token: str | None) -> None:
    """Let nobody control the service without the token, nor a web page that a browser shows."""
    if token is None:
        if "origin" in request.headers:
            error = OperatorError(
                f"a web page of {request.headers['origin']!r} may not control the service",
                remedy="use the command line, or set http.token_file and send the token",
            )
            raise RequestError(403, error)
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    same = hmac.compare_digest(given.strip().encode(), token.encode())
    if scheme.lower() != "bearer" or not same:
        error = OperatorError(
            "the token is missing or wrong",
            allowed="Authorization: Bearer TOKEN, with the text of http.token_file",
            consequence="nothing was done",
        )
        raise RequestError(401, error)


def _wait_seconds(request: Request) -> float:
    text = request.query_params.get("timeout", str(DEFAULT_WAIT_SECONDS))
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= MAX_WAIT_SECONDS:
        error = OperatorError(f"timeout is {text!r}", allowed=f"0 to {MAX_WAIT_SECONDS:g} seconds")
        raise RequestError(422, error)
    return seconds


async def _body(request: Request) -> dict[str, Any]:
    """The JSON object in the body; empty when there is no body."""
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                error = OperatorError("the body is too long", allowed=f"{MAX_BODY_BYTES} bytes")
                raise RequestError(413, error)
    except ClientDisconnect:  # nobody hears this, and it is no fault of ours
        error = OperatorError("the connection ended before the body did")
        raise RequestError(400, error) from None
    try:
        arguments = json.loads(body) if body.strip() else {}
    except (ValueError, RecursionError) as wrong:
        raise RequestError(400, OperatorError(f"the body is not JSON: {wrong}")) from None
    if not isinstance(arguments, dict):
        error = OperatorError("the body is not an object", allowed='{"argument": value}')
        raise RequestError(400, error)
    return arguments


def _checked(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        command = declaration(name)
    except OperatorError as error:
        raise RequestError(404, error) from None
    try:
        return command.check(arguments)
    except OperatorError as error:
        raise RequestError(422, error) from None


async def _outcome(name: str, future: Future[dict[str, Any]], wait_seconds: float) -> Response:
    """200 with the result; 202 when it takes longer than the caller waits."""
    waiting = asyncio.wrap_future(future)
    try:
        # shielded: a caller that gives up does not cancel the command
        result = await asyncio.wait_for(asyncio.shield(waiting), wait_seconds)
    except TimeoutError:
        waiting.add_done_callback(_retrieve)
        return _json({"command": name, "state": "pending"}, 202)
    except InsituError as error:
        raise RequestError(409 if isinstance(error, OperatorError) else 500, error) from None
    except Exception as error:
        told = OperatorError(f"command {name!r} failed: {error}")
        raise RequestError(500, told) from error
    return _json({"command": name, "state": "done", "result": result})


def _retrieve(waiting: asyncio.Future[dict[str, Any]]) -> None:
    """Look at the outcome that nobody waits for, so that asyncio does not complain."""
    if not waiting.cancelled():
        waiting.exception()


async def _request_error(request: Request, exception: Exception) -> Response:
    assert isinstance(exception, RequestError)
    error = exception.error
    parts = ("message", "allowed", "consequence", "remedy")
    told = {part: getattr(error, part) for part in parts if getattr(error, part)}
    return _json({"error": {**told, "fault": error.fault}}, exception.status)


async def _http_error(request: Request, exception: Exception) -> Response:
    assert isinstance(exception, HTTPException)
    text = f"{request.method} {request.url.path}: {exception.detail}"
    told = {"message": text, "allowed": ", ".join(ADDRESSES), "fault": "operator"}
    response = _json({"error": told}, exception.status_code)
    response.headers.update(exception.headers or {})
    return response


def _json(content: Any, status: int = 200) -> Response:
    return JSONResponse(finite(content), status, headers=_HEADERS)


def finite(value: Any) -> Any:
    """The same plain data with null for NaN and infinity, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(each) for each in value]
    return value
