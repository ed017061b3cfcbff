"""The world of one schedule: made from a seed, it runs, heals, and must end with nothing owed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from random import Random

from insitu.wire.messages import AckLevel
from insitu.wire.session import SessionState
from simulation.books import Books
from simulation.faults import Weather, drawn_blows
from simulation.fleet import Fleet
from simulation.life import Broken, require
from simulation.machine import Machine
from simulation.network import Network
from simulation.outcome import Outcome
from simulation.resumptions import Resumptions
from simulation.settings import Settings
from simulation.virtual_clock import VirtualClock

#: how long a healed world may take to deliver everything, and to end
_HEALED_SECONDS = 200.0
_MOST_EVENTS = 200_000
_EVENTS_PER_AUDIT = 16


class World:
    """Runs one schedule.

    Args:
        ack_level: what the service promises; None to draw it as well.
        resumes: whether there may be producers that resume.
        trace: is told of every event, for a seed that is looked at.
    """

    def __init__(
        self,
        seed: int,
        ack_level: AckLevel | None = None,
        trace: list[str] | None = None,
        *,
        resumes: bool = True,
    ) -> None:
        self.random = random = Random(seed)
        self.clock = VirtualClock()
        drawn_level = random.choice(tuple(AckLevel))
        self.settings = Settings.drawn(random, ack_level or drawn_level)
        self.network = Network(
            self.clock, random, Weather.drawn(random), high_water_mark=random.choice((2, 16))
        )
        self.books = Books(self.settings.ack_level, self.settings.when_full)
        self.outcome = Outcome(seed)
        self.trace = trace
        self.healed = False
        self._digest = hashlib.blake2b(digest_size=8)
        self._busy_seconds = random.choice((2.0, 6.0, 12.0))
        self.machine = Machine(
            self.settings, self.network, self.clock, random, self.books, seed,
            ended=self.outcome.service_ended, tell=self._tell,
        )  # fmt: skip
        self._resumption = Resumptions(
            Random(f"resumption of {seed}"), self._busy_seconds, wanted=resumes
        )
        self.fleet = Fleet(
            self.network, self.clock, random, self.books,
            wall_clock=self.machine.wall_clock, busy_seconds=self._busy_seconds,
            resumption=self._resumption,
        )  # fmt: skip

    def run(self) -> Outcome:
        try:
            self._start()
            self._run_until(self.clock.now + self._resumption.busy_seconds)
            self._heal()
            self._finish()
        except Broken:
            raise
        except Exception as error:
            raise Broken(f"an invariant broke: {error!r}") from error
        self.outcome.digest = self._digest.hexdigest()
        self._count()
        return self.outcome

    def _start(self) -> None:
        random = self.random
        self.clock.after(random.choice((0.0, 0.0, 2.0)), self.machine.start)
        for number in range(random.choice((1, 2, 2, 3))):
            self.fleet.launch(f"rank-{number}")
        for seconds, kind in drawn_blows(random, self._busy_seconds) + self._resumption.blows:
            self.clock.after(seconds, partial(self._blow, kind))

    def _blow(self, kind: str) -> None:
        if not self.healed:
            self._tell(kind)
            self.outcome.counts[kind] += 1
            part = self.machine if hasattr(self.machine, kind) else self.fleet
            getattr(part, kind)()

    def _run_until(self, end: float) -> None:
        while self.clock.next_at <= end:
            self._step()
        self.clock.now = end

    def _step(self) -> None:
        self.clock.step()
        self.outcome.events += 1
        require(self.outcome.events < _MOST_EVENTS, "it never comes to rest")
        if self.outcome.events % _EVENTS_PER_AUDIT == 0:
            self._audit()

    def _heal(self) -> None:
        """No more faults, no more pushes; whoever can must now come to an end."""
        self.healed = True
        self.network.heal()
        self.machine.heal()
        self.fleet.heal()
        self._audit()
        self._wait(self._all_delivered, "rows are not delivered")

    def _all_delivered(self) -> bool:
        ready = self.machine.service is not None and not self.machine.service.stopping
        return (
            ready
            and not self.fleet.going_on
            and all(p.clear and p.session.state is SessionState.OPEN for p in self.fleet.living())
        )

    def _finish(self) -> None:
        """Everybody says BYE; the service drains, and owes nothing."""
        for producer in self.fleet.living():
            producer.stop()
        self._wait(lambda: not self.fleet.living(), "producers do not end")
        service = self.machine.service
        assert service is not None
        service.drain()
        self._wait(lambda: service.exhausted, "the stream does not end")
        self._audit()
        for producer in self.fleet.producers:
            pool = producer.window.pool
            closed = producer.session.state is SessionState.CLOSED
            if closed and producer.window.books.pending_rows == 0:
                require(pool.free_slabs >= pool.slabs - 1, "the window leaks memory")

    def _wait(self, condition: Callable[[], bool], otherwise: str) -> None:
        deadline = self.clock.now + _HEALED_SECONDS
        while not condition():
            for _ in range(4):
                require(self.clock.next_at <= deadline, f"{otherwise} in {_HEALED_SECONDS} s")
                self._step()

    def _audit(self) -> None:
        service = self.machine.service
        windows = {p.life.number: p.window for p in self.fleet.producers if p.alive}
        with self.machine.looked_at():
            self.books.audit(service, windows)
        told: object = None
        if service is not None:
            told = received, drawn, unseen, dropped = service.fill
            if received != drawn + unseen + dropped:
                raise Broken(f"the buffer's books do not balance: {told}")
        self._digest.update(repr((self.clock.now, told)).encode())

    def _tell(self, what: str) -> None:
        if self.trace is not None:
            self.trace.append(f"{self.clock.now:10.4f} event {self.outcome.events:5d}  {what}")

    def _count(self) -> None:
        assert self.machine.service is not None
        self.outcome.service_ended(self.machine.service)
        self.outcome.add(self.books, self.machine.service)
        counts = self.outcome.counts
        counts.update(self.network.happened)
        counts["messages"] += self.network.messages
        counts["windows survived"] += self.fleet.came_back
