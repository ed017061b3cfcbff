"""The network: connections that keep order as tcp does, until a fault is drawn that does worse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from insitu.wire.values import Payload
from simulation.faults import Weather
from simulation.virtual_clock import VirtualClock

Frames = Sequence[Payload]


class Link:
    """One connection: frames under way in both directions, each arriving behind the one before."""

    def __init__(self, identity: bytes, socket: Socket, server: Server) -> None:
        self.identity = identity
        self.socket = socket
        self.server = server
        self.open = True
        #: what is under way when the connection ends still arrives
        self.arrives_late = False
        self.upward_at = self.downward_at = 0.0
        self.upward_blocked_until = self.downward_blocked_until = 0.0
        self.upward_waiting = 0


class Server:
    """Who listens; a new one for every life of the service."""

    def __init__(self, receive: Callable[[bytes, Frames], None]) -> None:
        self.receive = receive
        self.alive = True


class Socket:
    """A producer's end, as its DEALER: it connects again by itself."""

    def __init__(self, network: Network, changed: Callable[[], None]) -> None:
        self.inbox: list[Frames] = []
        self.changed = changed
        self.link: Link | None = None
        self.closed = False
        self._network = network
        network.connect(self)

    def writable(self) -> bool:
        return self.link is not None and self.link.upward_waiting < self._network.high_water_mark

    def send(self, frames: Frames) -> bool:
        """False when it takes no more now."""
        if not self.writable():
            return False
        assert self.link is not None
        self._network.upward(self.link, frames)
        return True

    def close(self, *, arrives_late: bool) -> None:
        self.closed = True
        self.inbox.clear()
        if self.link is not None:
            self._network.end(self.link, arrives_late=arrives_late)


class Network:
    """All connections of a simulation.

    Args:
        high_water_mark: messages that wait in a producer's socket.
        weather: what befalls single messages; may be replaced while it runs.
    """

    def __init__(
        self, clock: VirtualClock, random: Random, weather: Weather, *, high_water_mark: int
    ) -> None:
        self.weather = weather
        self.high_water_mark = high_water_mark
        self.server: Server | None = None
        self.links: dict[bytes, Link] = {}
        self.messages = 0
        self.happened: dict[str, int] = {}
        self._clock = clock
        self._random = random
        self._connections = 0

    def heal(self) -> None:
        """The same distances, without faults."""
        self.weather = self.weather.calm()
        for link in self.links.values():
            link.upward_blocked_until = link.downward_blocked_until = 0.0

    # connections

    def connect(self, socket: Socket) -> None:
        """Try now and again until somebody listens."""
        self._clock.after(self._random.uniform(0.001, 0.05), lambda: self._try(socket))

    def _try(self, socket: Socket) -> None:
        if socket.closed or socket.link is not None:
            return
        if self.server is None:
            self._clock.after(self._random.uniform(0.1, 2.0), lambda: self._try(socket))
            return
        self._connections += 1
        link = Link(b"peer %d" % self._connections, socket, self.server)
        self.links[link.identity] = socket.link = link
        socket.changed()

    def end(self, link: Link, *, arrives_late: bool) -> None:
        """The connection is gone; both sides lose what waits, and perhaps what is under way."""
        if not link.open:
            return
        link.open = False
        link.arrives_late = arrives_late
        del self.links[link.identity]
        socket = link.socket
        socket.link = None
        if not socket.closed:
            self.connect(socket)

    def listen(self, receive: Callable[[bytes, Frames], None]) -> None:
        self.server = Server(receive)

    def server_dies(self) -> None:
        """What is under way to it is lost; what it has sent may arrive."""
        assert self.server is not None
        self.server.alive = False
        self.server = None
        for link in list(self.links.values()):
            self.end(link, arrives_late=self._random.random() < 0.5)

    # messages

    def upward(self, link: Link, frames: Frames) -> None:
        link.upward_waiting += 1

        def arrive(frames: Frames) -> None:
            was_full = link.upward_waiting == self.high_water_mark
            link.upward_waiting -= 1
            if link.server.alive and (link.open or link.arrives_late):
                link.server.receive(link.identity, frames)
            if was_full and link.open:
                link.socket.changed()

        def arrive_again(frames: Frames) -> None:
            link.upward_waiting += 1
            arrive(frames)

        weather, chance = self.weather, self._random.random
        if chance() < weather.corrupts and len(frames) > 1:
            frames = [frames[0], self._corrupted(frames[1])]
        elif len(frames) > 1 and not weather.copies_nothing:
            frames = [frames[0], bytes(frames[1])]
        if chance() < weather.duplicates:
            self._count("duplicated")
            self._clock.after(self._delay(), lambda: arrive_again(frames))
        if chance() < weather.loses_upward:
            self._count("lost")
            link.upward_waiting -= 1
            return
        at = max(self._clock.now + self._delay(), link.upward_blocked_until)
        if chance() < weather.reorders:
            self._count("reordered")
        else:
            at = link.upward_at = max(at, link.upward_at)
        self.messages += 1
        self._clock.after(at - self._clock.now, lambda: arrive(frames))

    def downward(self, identity: bytes, frames: Frames) -> bool:
        """False when the peer is gone."""
        link = self.links.get(identity)
        if link is None:
            return False

        def arrive() -> None:
            socket = link.socket
            if not socket.closed and (link.open or link.arrives_late):
                socket.inbox.append(frames)
                socket.changed()

        weather, chance = self.weather, self._random.random
        if chance() < weather.duplicates:
            self._count("duplicated")
            self._clock.after(self._delay(), arrive)
        if chance() < weather.loses_downward:
            self._count("lost")
            return True
        at = max(self._clock.now + self._delay(), link.downward_blocked_until)
        if chance() < weather.reorders:
            self._count("reordered")
        else:
            at = link.downward_at = max(at, link.downward_at)
        self.messages += 1
        self._clock.after(at - self._clock.now, arrive)
        return True

    def _delay(self) -> float:
        weather, random = self.weather, self._random
        seconds = weather.delay_seconds * (0.5 + random.random())
        if random.random() < weather.spikes:
            self._count("delayed")
            seconds += random.uniform(0.1, 8.0)
        return seconds

    def _corrupted(self, payload: Payload) -> bytes:
        self._count("corrupted")
        broken = bytearray(payload)
        broken[self._random.randrange(len(broken))] ^= 1 << self._random.randrange(8)
        return bytes(broken)

    def _count(self, what: str) -> None:
        self.happened[what] = self.happened.get(what, 0) + 1
