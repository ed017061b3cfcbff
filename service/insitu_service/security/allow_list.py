"""The allow-list: which keys may connect, and as whom they may greet.

One thread asks, another may replace the clients when their file is read again: a frozen mapping
is swapped whole, so that every question is answered by one file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from insitu.config import Client
from insitu.wire.messages import Hello

#: the user id of a connection that showed no key: over a socket file, whose mode guards it
NO_KEY = "*"


class AllowList:
    """Clients by their public key.

    Args:
        clients: as `insitu.config.read_clients` gives them.
    """

    def __init__(self, clients: Iterable[Client]) -> None:
        self._clients: Mapping[str, Client] = {}
        self.replace(clients)

    def replace(self, clients: Iterable[Client]) -> None:
        """Take another set of clients from now on."""
        self._clients = {client.public_key: client for client in clients}

    def name_of(self, key: str) -> str | None:
        """Who holds a key; None when it is not allowed."""
        client = self._clients.get(key)
        return None if client is None else client.name

    def objection(self, key: str, hello: Hello) -> str:
        """Why a key may not greet like this; empty when it may.

        The words tell the peer nothing but what it has said itself.
        """
        if key == NO_KEY:
            return ""
        client = self._clients.get(key)
        if client is None:
            return "the key is not allowed"
        if not client.may_be(hello.producer_id):
            return f"the key may not speak for producer {hello.producer_id!r}"
        if not client.may_push_to(hello.stream):
            return f"the key may not push to stream {hello.stream!r}"
        return ""
