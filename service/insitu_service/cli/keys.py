"""`insitu keys`: key pairs for a service and its clients."""

from __future__ import annotations

import os
import re
from pathlib import Path

import click

from insitu.errors import OperatorError

_SERVER = "server"


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False), metavar="DIRECTORY")
@click.option(
    "--client",
    "clients",
    multiple=True,
    metavar="NAME",
    help="Make a pair for a client of this name; may be given several times.",
)
@click.option(
    "--producer-id",
    "producer_ids",
    multiple=True,
    metavar="PATTERN",
    help="Producer ids that the clients may use; NAME and NAME-* when left out.",
)
@click.option(
    "--stream", "streams", multiple=True, metavar="PATTERN", help="Streams; all when left out."
)
def keys(
    directory: Path,
    clients: tuple[str, ...],
    producer_ids: tuple[str, ...],
    streams: tuple[str, ...],
) -> None:
    """Make the key pair of a service in DIRECTORY, if it has none, and pairs for clients.

    Nothing is overwritten. Prints what goes where, and the entries of the clients file.
    """
    import zmq

    from insitu.config.document import written

    _check_names(clients)
    _check_free(directory, clients)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _secret(directory, _SERVER).exists():
        _write_pair(directory, _SERVER, *zmq.curve_keypair())
        click.echo(_SERVER_SAID.format(secret=_secret(directory, _SERVER)), err=True)
    entries = []
    for name in clients:
        public, secret = zmq.curve_keypair()
        _write_pair(directory, name, public, secret)
        click.echo(
            _CLIENT_SAID.format(
                name=name, secret=_secret(directory, name), server=_public(directory, _SERVER)
            ),
            err=True,
        )
        entry = {
            "name": name,
            "public_key": public.decode(),
            "producer_ids": list(producer_ids) or [name, f"{name}-*"],
            "streams": list(streams) or ["*"],
        }
        entries.append(entry)
    if entries:
        click.echo("put into stream.curve.clients_file:", err=True)
        click.echo(written({"clients": entries}), nl=False)


_SERVER_SAID = "{secret}: stays with the service alone, stream.curve.secret_key_file names it"
_CLIENT_SAID = (
    "{secret}: goes to client {name} alone (INSITU_SECRET_KEY_FILE or secret_key_file);\n"
    "{server}: goes there as well (INSITU_SERVER_KEY_FILE, or its text as server_key)"
)


def _check_names(clients: tuple[str, ...]) -> None:
    for name in clients:
        if name == _SERVER or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
            raise OperatorError(
                f"--client is {name!r}", allowed=f"letters, digits, _ . -, and not {_SERVER!r}"
            )
    if len(set(clients)) < len(clients):
        raise OperatorError("a --client is named twice")


def _check_free(directory: Path, clients: tuple[str, ...]) -> None:
    """Refuse to overwrite, before anything is written."""
    there = [path for name in clients for path in _paths(directory, name) if path.exists()]
    server = [path for path in _paths(directory, _SERVER) if path.exists()]
    if len(server) == 1 or (server and not clients):
        there += server
    if there:
        raise OperatorError(
            f"{', '.join(map(str, there))} is there already",
            consequence="nothing was written",
            remedy="choose another name or directory, or move it away: whoever uses it is locked "
            "out then",
        )


def _write_pair(directory: Path, name: str, public: bytes, secret: bytes) -> None:
    for path, text in zip(_paths(directory, name), (public, secret), strict=True):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
            file.write(text + b"\n")


def _paths(directory: Path, name: str) -> tuple[Path, Path]:
    return _public(directory, name), _secret(directory, name)


def _public(directory: Path, name: str) -> Path:
    return directory / f"{name}.public"


def _secret(directory: Path, name: str) -> Path:
    return directory / f"{name}.secret"
