"""A TCP proxy that stands between producers and a service and is a bad network.

It cuts and reorders connections, never bytes within one: TCP keeps their order, so that is all
that a network can do to a peer. One thread; everything that it does comes from the schedule.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from chaos.network_faults import NetworkFault, Weather

_TURN_SECONDS = 0.005
_READ_BYTES = 65_536
#: what one direction of a connection may hold; then its sender feels it
_MOST_BYTES = 1 << 20
_RESET = struct.pack("ii", 1, 0)


@dataclass
class Pipe:
    """One direction of a connection: what was read and is not written yet."""

    source: socket.socket | None  # None once it has ended
    sink: socket.socket
    waiting: deque[tuple[float, bytes]] = field(default_factory=deque)  # (due, bytes)
    waiting_bytes: int = 0

    def read(self, due: float) -> bool:
        """Take what is there; False when the source has ended."""
        assert self.source is not None
        try:
            data = self.source.recv(_READ_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if data:
            self.waiting.append((due, data))
            self.waiting_bytes += len(data)
        return bool(data)

    def write(self, now: float, budget: float) -> tuple[bool, int]:
        """Pass on what is due, at most `budget` bytes: whether the sink lives, and how many."""
        written = 0
        while self.waiting and self.waiting[0][0] <= now and written < budget:
            due, data = self.waiting[0]
            try:
                count = self.sink.send(data[: max(1, int(min(budget - written, len(data))))])
            except BlockingIOError:
                break
            except OSError:
                return False, written
            written += count
            self.waiting_bytes -= count
            self.waiting.popleft()
            if count < len(data):
                self.waiting.appendleft((due, data[count:]))
        return True, written


@dataclass
class Link:
    """A connection through the proxy: both directions, or only what is still to arrive."""

    client: socket.socket
    server: socket.socket
    up: Pipe
    down: Pipe
    late: bool = False  # the client is gone; what it had sent arrives later

    @classmethod
    def between(cls, client: socket.socket, server: socket.socket) -> Link:
        for each in (client, server):
            each.setblocking(False)
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return cls(client, server, Pipe(client, server), Pipe(server, client))

    def close(self, *, reset: bool = False) -> None:
        for each in (self.client, self.server):
            if reset:
                with contextlib.suppress(OSError):
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            each.close()


class TcpProxy:
    """Listens on a port of its own and passes on to another, as the weather allows.

    Args:
        port: of the service, on this machine; it may be away and come back.
        weather: what happens, one after the other.
    """

    def __init__(self, port: int, weather: Iterator[Weather]) -> None:
        self._target = ("127.0.0.1", port)
        self._weather = weather
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self.counts: Counter[str] = Counter()  # faults that met a connection, and bytes
        self._links: list[Link] = []
        self._now = self._next = time.monotonic()
        self._today = Weather(NetworkFault.CALM, 0.0)
        self._stopping = threading.Event()
        self._calm = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def calm(self) -> None:
        """No more faults from now on."""
        self._calm.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._now = time.monotonic()
            if self._now >= self._next:
                self._change()
            self._accept()
            if self._today.fault is NetworkFault.HALF_OPEN:
                self._stopping.wait(_TURN_SECONDS)
            else:
                self._pass_on()
        for link in self._links:
            link.close()
        self._listener.close()

    def _change(self) -> None:
        """The weather of the next seconds; some of it strikes at once and is over."""
        today = Weather(NetworkFault.CALM, 1e9) if self._calm.is_set() else next(self._weather)
        self._today, self._next = today, self._now + min(today.seconds, 3600.0)
        if self._calm.is_set():
            self._weather = iter(())
        self.counts[today.fault] += bool(self._links)
        if today.fault is NetworkFault.CUT:
            for index, link in enumerate(self._links):
                link.close(reset=index % 2 == 0)
            self._links.clear()
        elif today.fault is NetworkFault.REORDER:
            for link in self._links:
                self._make_late(link, today.amount)

    def _make_late(self, link: Link, seconds: float) -> None:
        """End the client's side now, and let what it had sent arrive after that."""
        if link.late:
            return
        while link.up.read(self._now) and self._readable(link.client):
            pass
        link.client.close()
        link.late, link.up.source = True, None
        due = self._now + seconds
        link.up.waiting = deque((due, data) for _, data in link.up.waiting)

    @staticmethod
    def _readable(each: socket.socket) -> bool:
        return bool(select.select([each], [], [], 0)[0])

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except BlockingIOError:
            return
        try:
            server = socket.create_connection(self._target, timeout=1.0)
        except OSError:
            client.close()
            return
        self.counts["connections"] += 1
        self._links.append(Link.between(client, server))

    def _pass_on(self) -> None:
        sources = {
            pipe.source: (link, pipe)
            for link in self._links
            for pipe in ((link.up,) if link.late else (link.up, link.down))
            if pipe.source is not None and pipe.waiting_bytes < _MOST_BYTES
        }
        ready, _, _ = select.select([*sources, self._listener], [], [], _TURN_SECONDS)
        delay = self._today.amount if self._today.fault is NetworkFault.DELAY else 0.0
        over = [
            link
            for link, pipe in (sources[each] for each in ready if each is not self._listener)
            if not pipe.read(self._now + delay)
        ]
        for link in [*self._links]:
            if link in over or not self._written(link):
                link.close()
                self._links.remove(link)

    def _written(self, link: Link) -> bool:
        """Pass on what is due; False when the connection is over."""
        budget = float(_MOST_BYTES)
        if self._today.fault is NetworkFault.THROTTLE:
            budget = self._today.amount * _TURN_SECONDS
        alive, up = link.up.write(self._now, budget)
        self.counts["bytes"] += up
        if link.late:
            return alive and bool(link.up.waiting)
        alive_down, down = link.down.write(self._now, budget)
        self.counts["bytes"] += down
        return alive and alive_down
