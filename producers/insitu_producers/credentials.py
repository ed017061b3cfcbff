"""What a producer proves itself with: a token, and keys for a service that encrypts its stream.

Arguments win over the environment:

    INSITU_TOKEN or INSITU_TOKEN_FILE              what the service asks producers for
    INSITU_SERVER_KEY or INSITU_SERVER_KEY_FILE    the service's public key
    INSITU_SECRET_KEY or INSITU_SECRET_KEY_FILE    this client's secret key

Keys are used for tcp. A socket file (`ipc://`) is guarded by its mode, and needs none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import zmq

from insitu.errors import ProducerError

_KEY = re.compile(r"[0-9A-Za-z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
_MAKE = "`insitu keys` makes them; insitu/docs/security.md has the steps"


@dataclass(frozen=True)
class Credentials:
    """A token, the service's public key and our secret key; each may be empty.

    Raises:
        ProducerError: a key is none, or there is one without the other.

    Example:
        >>> Credentials(token="correct-horse")
        Credentials(server_key='')
    """

    token: str = field(default="", repr=False)
    server_key: str = ""
    secret_key: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        for name in ("server_key", "secret_key"):
            text = getattr(self, name)
            if text and not _KEY.fullmatch(text):
                raise ProducerError(
                    f"{name} is no key ({len(text)} characters)",
                    allowed="40 characters of Z85",
                    remedy=_MAKE,
                )
        if bool(self.server_key) != bool(self.secret_key):
            there, missing = "server_key", "secret_key_file"
            if self.secret_key:
                there, missing = "a secret key", "server_key"
            raise ProducerError(
                f"{there} is given without {missing}", allowed="both, or none", remedy=_MAKE
            )

    @classmethod
    def of(
        cls,
        environment: Mapping[str, str],
        *,
        token: str = "",
        server_key: str = "",
        secret_key_file: Path | str | None = None,
    ) -> Credentials:
        """From arguments, and from the environment what they leave open.

        Raises:
            ProducerError: a file cannot be read, or holds no key.
        """
        secret = "" if secret_key_file is None else read_secret(secret_key_file)
        return cls(
            token or _variable(environment, "INSITU_TOKEN"),
            server_key.strip() or _variable(environment, "INSITU_SERVER_KEY"),
            secret or _variable(environment, "INSITU_SECRET_KEY"),
        )

    def arm(self, socket: zmq.Socket[bytes], endpoint: str) -> None:
        """Have a socket encrypt what goes to a tcp endpoint, and prove who we are."""
        if self.secret_key and endpoint.startswith("tcp://"):
            secret = self.secret_key.encode()
            socket.curve_serverkey = self.server_key.encode()
            socket.curve_secretkey = secret
            socket.curve_publickey = zmq.curve_public(secret)


def _variable(environment: Mapping[str, str], name: str) -> str:
    """The text of a variable, or of the file that `NAME_FILE` names."""
    path = environment.get(f"{name}_FILE", "")
    return environment.get(name, "").strip() or (read_secret(path) if path else "")


def read_secret(file: Path | str) -> str:
    """The text of a file without surrounding white space.

    Raises:
        ProducerError: it cannot be read, or is empty.
    """
    path = Path(file)
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ProducerError(f"file {str(path)!r} cannot be read: {reason}") from None
    if not text:
        raise ProducerError(f"file {str(path)!r} is empty", allowed="a secret or a key")
    return text
