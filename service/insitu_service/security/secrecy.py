"""The secrets of a running service: read once at the start, held in one place, shown nowhere."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, field
from pathlib import Path

from insitu.config import Config, read_token, take_secret_key
from insitu.config.secrets import open_to_others
from insitu.errors import InternalError


@dataclass(frozen=True)
class Secrets:
    """What must never be in a log, a metric, an answer or a checkpoint.

    Args:
        stream_token: that producers show; None where none is asked for.
        http_token: that requests show; None where none is asked for.
        secret_key: of CURVE; None where the stream is not encrypted.
        readable_files: files with secrets that other users may read.
    """

    stream_token: str | None = field(default=None, repr=False)
    http_token: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)
    readable_files: tuple[Path, ...] = ()

    @classmethod
    def of(cls, config: Config, environment: MutableMapping[str, str]) -> Secrets:
        """Read them; what the environment holds is taken out of it.

        Raises:
            OperatorError: one is named and cannot be had.
        """
        stream, http = config.stream, config.http
        key_file = None if stream.curve is None else stream.curve.secret_key_file
        files = (stream.token_file, http.token_file, http.key_file, key_file)
        return cls(
            None if stream.token_file is None else read_token(stream.token_file),
            None if http.token_file is None else read_token(http.token_file),
            None if stream.curve is None else take_secret_key(key_file, environment),
            tuple(path for path in files if path is not None and open_to_others(path)),
        )

    def check(self, config: Config) -> None:
        """Let nothing run open because its secrets were forgotten on the way.

        Raises:
            InternalError: the configuration asks for a secret that is not here.
        """
        stream = config.stream
        if (stream.token_file is not None and self.stream_token is None) or (
            stream.curve is not None and self.secret_key is None
        ):
            raise InternalError("the stream's secrets were not handed to its parts")

    @property
    def texts(self) -> list[str]:
        """All of them, for whoever keeps them out of what is shown."""
        return [each for each in (self.stream_token, self.http_token, self.secret_key) if each]
