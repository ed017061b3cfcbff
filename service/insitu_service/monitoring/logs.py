"""Log lines on stderr: JSON or plain, and never the same one a thousand times.

Extra fields come as `logger.info("...", extra={"step": 12})`. A line that may repeat
is given a key, `extra={"key": "quarantined"}`: lines of one logger and key appear at most once in
an interval, and the next one says how many were left out. So do lines of libraries with the same
words. Secrets are replaced wherever they are.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

_PROTECTED = "***"
#: libraries whose warnings strangers can provoke, by requests that are none
_LIBRARIES = ("asyncio", "uvicorn")
_MAX_KEYS = 1000  # different keys remembered; a producer can invent names, not fill the memory


_OWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "key", "taskName"}


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """What the caller added to the record, but nothing that every record has."""
    return {name: value for name, value in record.__dict__.items() if name not in _OWN}


def _without(secrets: Sequence[str], value: Any) -> Any:
    """A value as JSON holds it, with every secret in its texts replaced."""
    if isinstance(value, Mapping):
        return {_without(secrets, str(k)): _without(secrets, v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without(secrets, each) for each in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    text = str(value)
    for secret in secrets:
        text = text.replace(secret, _PROTECTED)
    return text


class JSONFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, then the extra fields."""

    def __init__(self, secrets: Sequence[str] = ()) -> None:
        super().__init__()
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        said = {"message": record.getMessage(), **_fields(record)}
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        line |= {k: _without(self._secrets, v) for k, v in said.items() if k not in line}
        return json.dumps(line, ensure_ascii=False)


class PlainFormatter(logging.Formatter):
    """For people: the time of day, the level, the message, then the extra fields."""

    def __init__(self, secrets: Sequence[str] = ()) -> None:
        super().__init__()
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{name}={value}" for name, value in _fields(record).items())
        said = f"{record.getMessage()} {fields}".rstrip()
        if record.exc_info:
            said += f"\n{self.formatException(record.exc_info)}"
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        return f"{clock} {record.levelname.lower():7} {_without(self._secrets, said)}"


class RepetitionFilter(logging.Filter):
    """Lets one line of a key through in an interval, and counts the rest.

    Args:
        interval_seconds: of silence after a line.
        clock: seconds that only rise.
    """

    def __init__(
        self, interval_seconds: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._interval = interval_seconds
        self._clock = clock
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        key = getattr(record, "key", None)
        if key is None and record.name.partition(".")[0] in _LIBRARIES:
            key = record.msg  # of a library: a stranger's requests may provoke it at any rate
        if key is None:
            return True
        now, place = self._clock(), (record.name, str(key))
        with self._lock:
            last, left_out = self._seen.get(place, (-float("inf"), 0))
            if now - last < self._interval:
                self._seen[place] = (last, left_out + 1)
                return False
            self._seen.pop(place, None)
            self._seen[place] = (now, 0)  # the newest last, so that the oldest is forgotten
            if len(self._seen) > _MAX_KEYS:
                self._seen.pop(next(iter(self._seen)))
        if left_out:
            record.left_out = left_out
        return True


class LineHandler(logging.Handler):
    """Writes lines; a reader that is gone ends nothing but the log.

    Without a stream it writes to whatever `sys.stderr` is at the moment, so that a live table
    on the same terminal can put the lines above itself.
    """

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        try:
            stream = sys.stderr if self._stream is None else self._stream
            stream.write(self.format(record) + "\n")
            stream.flush()
        except Exception:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """A closed pipe or a full disk must not stop training, nor print a traceback each time."""


def configure_logs(
    level: str = "info",
    form: Literal["auto", "json", "plain"] = "auto",
    *,
    stream: TextIO | None = None,
    secrets: Iterable[str] = (),
    repetition_seconds: float = 10.0,
) -> logging.Logger:
    """Send the lines of all `insitu` loggers to a stream; the logger at their root.

    Warnings of the libraries that answer strangers go there, too.

    Args:
        level: debug, info, warning or error.
        form: `auto` is plain on a terminal, else json.
        stream: stderr when None.
        secrets: texts that never appear.
        repetition_seconds: see `RepetitionFilter`.
    """
    plain = form == "plain" or (form == "auto" and (stream or sys.stderr).isatty())
    # the longest first, so that no part of one is left
    hidden = sorted((secret for secret in secrets if secret), key=len, reverse=True)
    handler = LineHandler(stream)
    handler.setFormatter(PlainFormatter(hidden) if plain else JSONFormatter(hidden))
    handler.addFilter(RepetitionFilter(repetition_seconds))
    for name in _LIBRARIES:
        _send(logging.getLogger(name), handler, "WARNING")
    logger = logging.getLogger("insitu")
    _send(logger, handler, level.upper())
    return logger


def _send(logger: logging.Logger, handler: LineHandler, level: str) -> None:
    """Let a logger's lines go to this handler alone."""
    for old in list(logger.handlers):
        if isinstance(old, LineHandler):
            logger.removeHandler(old)
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
