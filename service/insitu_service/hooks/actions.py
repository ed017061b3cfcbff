"""What a hook does when its event comes: call a function, run a command, or POST to a URL.

Each action is called with the event in the hook's own thread. It raises when it failed, and
`TimeoutError` when it took too long. Commands and requests are ended at the timeout; a Python
function cannot be, see `hook_runner`.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import signal
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from email.message import Message
from typing import IO, Any, Protocol

from insitu.errors import OperatorError

_STDERR_BYTES = 500


class HookFailed(OperatorError):  # noqa: N818
    """A hook did not do what it should; `kind` is the same for all failures of one sort."""

    def __init__(self, kind: str, detail: str = "") -> None:
        self.kind = kind
        super().__init__(f"{kind}: {detail}" if detail else kind)


class Action(Protocol):
    """What to do with an event."""

    def __call__(self, event: dict[str, Any], timeout_seconds: float) -> None: ...


class CallFunction:
    """Call `function(event)`, in this process.

    Args:
        function: takes the event as a dict; what it returns is ignored.
    """

    def __init__(self, function: Callable[[dict[str, Any]], object]) -> None:
        self._function = function

    @classmethod
    def named(cls, name: str) -> CallFunction:
        """The function called `package.module:function`."""
        module_name, _, attribute = name.partition(":")
        try:
            function = getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise OperatorError(
                f"hook function {name!r} cannot be imported: {error}",
                allowed="package.module:function",
                remedy="is its directory on PYTHONPATH, and is the name after ':' defined there?",
            ) from error
        if not callable(function):
            raise OperatorError(f"hook function {name!r} cannot be called: it is {function!r}")
        return cls(function)

    def __call__(self, event: dict[str, Any], timeout_seconds: float) -> None:
        self._function(event)


class RunCommand:
    """Run a command with the event as JSON on its stdin and its name in INSITU_EVENT.

    What it prints on stdout goes nowhere; the end of stderr is in the error when it fails. At
    the timeout it is killed, with all processes of its group.

    Args:
        command: a list of words, or a line for /bin/sh.
    """

    def __init__(self, command: str | Sequence[str]) -> None:
        self._words = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)

    def __call__(self, event: dict[str, Any], timeout_seconds: float) -> None:
        # Files, not pipes: nothing can fill up, and a background child that keeps them open
        # does not keep us waiting.
        with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stderr:
            stdin.write(encode_event(event))
            stdin.seek(0)
            process = subprocess.Popen(
                self._words,
                stdin=stdin,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env={**os.environ, "INSITU_EVENT": str(event["event"])},
                start_new_session=True,
            )
            try:
                status = process.wait(timeout_seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise TimeoutError from None
            if status != 0:
                raise HookFailed(f"exit status {status}", _end_of(stderr))


class PostJson:
    """POST the event as JSON to a URL; any answer but 2xx is a failure, redirects included.

    Args:
        url: http or https.
    """

    def __init__(self, url: str) -> None:
        if not url.startswith(("http://", "https://")):
            raise OperatorError(f"hook URL is {url!r}", allowed="http://... or https://...")
        self._url = url
        self._opener = urllib.request.build_opener(_NoRedirect)

    def __call__(self, event: dict[str, Any], timeout_seconds: float) -> None:
        request = urllib.request.Request(
            self._url,
            data=encode_event(event),
            headers={"Content-Type": "application/json", "User-Agent": "insitu"},
            method="POST",
        )
        try:
            with self._opener.open(request, timeout=timeout_seconds):
                pass
        except urllib.error.HTTPError as error:
            error.close()
            raise HookFailed(f"HTTP status {error.code}", str(error.reason)) from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise TimeoutError from None
            raise HookFailed("no connection", str(error.reason)) from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would arrive as a GET without its body."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Message,
        newurl: str,
    ) -> None:
        return None


def encode_event(event: Mapping[str, Any]) -> bytes:
    """An event as strict JSON.

    Example:
        >>> encode_event({"event": "step", "loss": float("nan")})
        b'{"event": "step", "loss": "NaN"}'
    """
    return json.dumps(_strict(event), default=str, allow_nan=False).encode()


def _strict(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    return value


def _end_of(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _STDERR_BYTES))
    return file.read().decode("utf-8", "replace").strip()
