"""Secrets: read from a file or from a variable of the environment, and from nowhere else.

A setting never holds a secret, it names the file that does; so a configuration can be shown,
logged and kept in a repository. No error says what is in such a file.
"""

from __future__ import annotations

import os
import re
from collections.abc import MutableMapping
from pathlib import Path

from insitu.config.clients import Z85_KEY
from insitu.errors import OperatorError

#: the variable that holds the service's secret key where no file is named
SECRET_KEY_VARIABLE = "INSITU_SERVER_SECRET_KEY"
_ONLY_OURS = "write a secret into it that only the service's user can read"


def read_token(path: Path) -> str:
    """The secret in a file: its text without surrounding white space.

    Raises:
        OperatorError: the file cannot be read, or holds nothing.
    """
    token = _text(path, "token")
    if not token:
        raise OperatorError(
            f"token file {str(path)!r} is empty",
            consequence="an empty secret would let everybody in",
        )
    return token


def read_secret_key(path: Path) -> str:
    """The secret key in a file, as `insitu keys` wrote it.

    Raises:
        OperatorError: the file cannot be read, or holds no key.
    """
    return _key(_text(path, "secret key"), f"secret key file {str(path)!r}")


def take_secret_key(path: Path | None, environment: MutableMapping[str, str]) -> str:
    """The service's secret key: of the file, or else of the environment, which forgets it.

    Forgets, because hooks and other children inherit the environment.

    Raises:
        OperatorError: there is none, or it is no key.
    """
    given = environment.pop(SECRET_KEY_VARIABLE, "").strip()
    if path is not None:
        return read_secret_key(path)
    if not given:
        raise OperatorError(
            f"stream.curve has no secret_key_file, and {SECRET_KEY_VARIABLE} is not set",
            consequence="the service does not start",
            remedy="make keys with `insitu keys`, and name the file",
        )
    return _key(given, f"variable {SECRET_KEY_VARIABLE}")


def open_to_others(path: Path) -> bool:
    """Whether other users of the machine may read a file."""
    try:
        return bool(path.stat().st_mode & 0o077)
    except OSError:
        return False


def _text(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise OperatorError(
            f"{what} file {os.fspath(path)!r} cannot be read: {reason}", remedy=_ONLY_OURS
        ) from None


def _key(text: str, where: str) -> str:
    if not re.fullmatch(Z85_KEY, text):
        raise OperatorError(
            f"{where} holds no key ({len(text)} characters)",
            allowed="40 characters of Z85, as `insitu keys` writes them",
        )
    return text
