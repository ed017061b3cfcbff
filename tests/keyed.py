"""What the tests of keys share: a service that encrypts its stream, and clients with keys."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
import zmq

from daemon import Daemon
from insitu_producers import Producer
from served import SCHEMA, config


@dataclass(frozen=True)
class Pair:
    """Public and secret key, as text."""

    public: str
    secret: str

    @classmethod
    def made(cls) -> Pair:
        public, secret = zmq.curve_keypair()
        return cls(public.decode(), secret.decode())

    def file(self, path: Path) -> Path:
        """The secret key in a file."""
        path.touch(mode=0o600)
        path.write_text(self.secret + "\n")
        return path


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def entry(name: str, key: str, producer_ids: Sequence[str], **more: Any) -> dict[str, Any]:
    """One client of the clients file."""
    return {"name": name, "public_key": key, "producer_ids": list(producer_ids), **more}


def write_clients(path: Path, *clients: Mapping[str, Any]) -> Path:
    path.write_text(yaml.safe_dump({"clients": [dict(each) for each in clients]}))
    return path


def keyed_config(
    directory: Path, server: Pair, clients: Sequence[Mapping[str, Any]], **stream: Any
) -> dict[str, Any]:
    """As `served.config`, with keys for its tcp endpoint; a socket file stands beside it."""
    settings = {
        "names": ["small", "secret-stream"],
        "endpoints": [f"tcp://127.0.0.1:{free_port()}", f"ipc://{directory}/ingest"],
        "curve": {
            "secret_key_file": str(server.file(directory / "server.secret")),
            "clients_file": str(write_clients(directory / "clients.yaml", *clients)),
        },
        **stream,
    }
    return config(directory, stream=settings)


def keyed_producer(
    daemon: Daemon, directory: Path, server: str, client: Pair, producer_id: str, **options: Any
) -> Producer:
    """A producer of the service's stream, with keys."""
    secret = client.file(directory / f"{client.public.encode().hex()[:16]}.secret")
    given = {"stream": "small", "schema": SCHEMA, "epoch": 1, "linger_seconds": 1.0, **options}
    return Producer(
        options.pop("endpoint", daemon.endpoint),
        producer_id=producer_id,
        server_key=server,
        secret_key_file=secret,
        **{name: value for name, value in given.items() if name != "endpoint"},
    )
