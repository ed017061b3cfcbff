"""The clients file: which public keys may connect, and what each may do.

    clients:
      - name: cluster-a
        public_key: "Zq2x...forty characters of Z85...."
        producer_ids: ["rank-*"]
        streams: ["plasma"]

A key may greet under the producer ids and on the streams that its patterns match, and under no
others. In a pattern `*` stands for any text, `?` for one character, `[ab]` for one of these.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import Field

from insitu.config.check import validated
from insitu.config.document import parse
from insitu.config.problem import ConfigError, Problem
from insitu.config.setting import Section, setting

#: 32 bytes in the 85 characters that ZeroMQ writes keys with
Z85_KEY = r"^[0-9A-Za-z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}$"
Pattern = Annotated[str, Field(min_length=1, max_length=128)]


class Client(Section):
    """One key, and what it is bound to."""

    name: Annotated[
        str, setting("Who holds the key, for logs.", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    ]
    public_key: Annotated[str, setting("Its public key, 40 characters.", pattern=Z85_KEY)]
    producer_ids: Annotated[
        tuple[Pattern, ...], setting("Patterns of the producer ids that it may use.", min_length=1)
    ]
    streams: Annotated[
        tuple[Pattern, ...], setting("Patterns of the streams that it may push to.", min_length=1)
    ] = ("*",)

    def may_be(self, producer_id: str) -> bool:
        """Whether the key may speak for a producer."""
        return _matches(producer_id, self.producer_ids)

    def may_push_to(self, stream: str) -> bool:
        """Whether the key may push to a stream."""
        return _matches(stream, self.streams)


class ClientsFile(Section):
    """The whole file."""

    clients: tuple[Client, ...] = ()


def _matches(text: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(text, pattern) for pattern in patterns)


def read_clients(path: Path) -> tuple[Client, ...]:
    """The clients in a file.

    Raises:
        ConfigError: it cannot be read, or with all that is wrong in it.
    """
    source = str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError([Problem((), f"cannot be read: {reason}")], source) from None
    data = parse(text, source).data
    if not isinstance(data, dict | None):  # such as the file of a secret, named by mistake
        raise ConfigError([Problem((), "is not a mapping")], source)
    found, problems = validated(ClientsFile, data or {}, ())
    problems = [_unshown(problem) for problem in problems]
    if not problems:
        problems = [*_repeated(found, "name"), *_repeated(found, "public_key")]
    if problems:
        raise ConfigError(problems, source)
    clients: tuple[Client, ...] = found.clients
    return clients


def _unshown(problem: Problem) -> Problem:
    """Without the value, where it could be a secret key that was put in the wrong place."""
    if problem.path[-1:] != ("public_key",) or not problem.message.startswith("is '"):
        return problem
    return Problem(problem.path, "is no key", "40 characters of Z85", "`insitu keys` makes them")


def _repeated(file: ClientsFile, setting: str) -> Iterable[Problem]:
    values = [getattr(client, setting) for client in file.clients]
    for index, value in enumerate(values):
        if value in values[:index]:
            yield Problem(("clients", index, setting), f"is {value!r} for the second time")
