"""The world of one schedule: made from a seed, it runs, heals, and must end with nothing owed."""

from __future__ import annotations

import errno
import hashlib
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random

from insitu.errors import OperatorError
from insitu.wire.messages import Ack, AckLevel
from insitu.wire.session import SessionState
from insitu_service.session import Session
from simulated_disk import Crashed, Operation, Partly, SimulatedDisk
from simulation.books import Books, Lineage
from simulation.faults import Weather, drawn_blows
from simulation.life import Broken, Life, require
from simulation.network import Network
from simulation.producer import Producer
from simulation.samples import ROW_BYTES
from simulation.service import Checkpoint, Service
from simulation.settings import Settings
from simulation.surviving import WindowStore
from simulation.virtual_clock import VirtualClock

#: how long a healed world may take to deliver everything, and to end
_HEALED_SECONDS = 200.0
_MOST_EVENTS = 50_000
_EVENTS_PER_AUDIT = 16


@dataclass
class Outcome:
    """What happened in a schedule, and the sum of its books."""

    seed: int
    events: int = 0
    digest: str = ""
    counts: Counter[str] = field(default_factory=Counter)


class World:
    """Runs one schedule.

    Args:
        ack_level: what the service promises; None to draw it as well.
        trace: is told of every event, for a seed that is looked at.
    """

    def __init__(
        self, seed: int, ack_level: AckLevel | None = None, trace: list[str] | None = None
    ) -> None:
        self.seed = seed
        self.random = random = Random(seed)
        self.clock = VirtualClock()
        drawn_level = random.choice(tuple(AckLevel))
        self.settings = Settings.drawn(random, ack_level or drawn_level)
        self.disk = SimulatedDisk(random)
        self.disk.before = self._before_disk
        self.network = Network(
            self.clock, random, Weather.drawn(random), high_water_mark=random.choice((2, 16))
        )
        self.books = Books(self.settings.ack_level, self.settings.when_full)
        self.outcome = Outcome(seed)
        self.trace = trace
        self.service: Service | None = None
        self.producers: list[Producer] = []
        self.wall_seconds = 1e9
        self.healed = False
        self._saved: tuple[Checkpoint | None, Lineage] = (None, Lineage())
        self._disk_full_until = self._disk_fails_until = 0.0
        self._dies_after_operations: int | None = None
        self._cache_was_lost = False
        self._going_on = 0  # producers that were killed and will be back
        self._digest = hashlib.blake2b(digest_size=8)
        self._busy_seconds = random.choice((2.0, 6.0, 12.0))
        self._poisons = random.random() < 0.4
        self._windows_survive = random.random() < 0.5
        self._probes = random.random() < 0.3
        self._pause_seconds = self._busy_seconds / random.choice((10, 25, 50))
        self._most_rows = random.choice((2, 6, 15))

    # the schedule

    def run(self) -> Outcome:
        try:
            self._start()
            self._run_until(self.clock.now + self._busy_seconds)
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
        self.clock.after(random.choice((0.0, 0.0, 2.0)), self._start_service)
        for number in range(random.choice((1, 2, 2, 3))):
            self._launch(f"rank-{number}")
        for seconds, kind in drawn_blows(random, self._busy_seconds):
            self.clock.after(seconds, partial(self._blow, kind))

    def _blow(self, kind: str) -> None:
        if not self.healed:
            self._tell(kind)
            self.outcome.counts[kind] += 1
            getattr(self, kind)()

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
        self.network.weather = self.network.weather.calm()
        for link in self.network.links.values():
            link.upward_blocked_until = link.downward_blocked_until = 0.0
        self._disk_full_until = self._disk_fails_until = 0.0
        self._dies_after_operations = None
        if self.service is not None:
            service = self.service
            service.stalled_until = service.learner_stalled_until = 0.0
            service.disk_stalled_until = 0.0
            service.dies_after_messages = None
        for producer in self.producers:
            producer.stalled_until = 0.0
            if producer.store is not None:
                producer.store.dies_after_writes = None
        self._audit()
        self._wait(self._all_delivered, "rows are not delivered")

    def _all_delivered(self) -> bool:
        ready = self.service is not None and not self.service.stopping
        return (
            ready
            and not self._going_on
            and all(p.clear and p.session.state is SessionState.OPEN for p in self._living())
        )

    def _finish(self) -> None:
        """Everybody says BYE; the service drains, and owes nothing."""
        for producer in self._living():
            producer.stop()
        self._wait(lambda: not self._living(), "producers do not end")
        service = self.service
        assert service is not None
        service.drain()
        self._wait(lambda: service.exhausted, "the stream does not end")
        self._audit()
        for producer in self.producers:
            pool = producer.window.pool
            if producer.window.books.pending_rows == 0:
                require(pool.free_slabs >= pool.slabs - 1, "the window leaks memory")

    def _wait(self, condition: Callable[[], bool], otherwise: str) -> None:
        deadline = self.clock.now + _HEALED_SECONDS
        while not condition():
            for _ in range(4):
                require(self.clock.next_at <= deadline, f"{otherwise} in {_HEALED_SECONDS} s")
                self._step()

    def _living(self) -> list[Producer]:
        return [p for p in self.producers if p.alive and not p.session.over]

    # processes

    def _start_service(self) -> None:
        if self.service is not None:
            return
        checkpoint, lineage = self._saved
        try:
            service = Service(
                self.settings, self.network, self.disk, self.clock, self.seed, checkpoint,
                wall_clock=self._wall_clock, on_ack=self._on_ack, after_event=self._after_service,
            )  # fmt: skip
        except Crashed:
            self._start_later()
            return
        except OperatorError as error:
            self._tell(f"the service does not start: {error}")
            require(not self.healed, f"the service does not start: {error}")
            self._cache_was_lost = True  # by a sync, perhaps
            self._start_later()
            return
        self.service = service
        before, self.disk.before = self.disk.before, lambda _operation: None
        self.books.service_begins(service, lineage, cache_was_lost=self._cache_was_lost)
        self.disk.before = before
        self._cache_was_lost = False
        self._tell("the service starts")

    def _start_later(self) -> None:
        self.disk.kill()
        self.clock.after(self.random.choice((0.05, 1.0, 8.0)), self._start_service)

    def _wall_clock(self) -> float:
        return self.wall_seconds + self.clock.now

    def _launch(self, producer_id: str) -> None:
        """A new run, with a window of its own that may survive."""
        epoch = int((self._wall_clock() + self.random.uniform(0.0, 0.001)) * 1e9)
        life = self.books.begin_life(producer_id, epoch, poisons=self._poisons)
        window_bytes = self.random.choice((8, 40, 100)) * ROW_BYTES
        survives = self._windows_survive and self.random.random() < 0.7
        self._run_producer(
            life, window_bytes, WindowStore(window_bytes, self.random) if survives else None
        )

    def _run_producer(self, life: Life, window_bytes: int, store: WindowStore | None) -> None:
        random = self.random
        producer = Producer(
            life, self.network, self.clock, random,
            window_bytes=window_bytes,
            store=store,
            policy=random.choice(("block", "block", "drop_newest", "drop_oldest", "thin")),
            after_event=lambda: self._after_producer(producer),
            killed=lambda: self._kill(producer),
        )  # fmt: skip
        life.goes_on(producer.window)
        self.producers.append(producer)
        self._push_on(producer)

    def _push_on(self, producer: Producer) -> None:
        if self.healed or not producer.alive or producer.session.over:
            return
        random = self.random
        task = random.choice(("", "", "a", "b"))
        evaluate = self._probes and random.random() < 0.1
        if self.clock.now >= producer.stalled_until:
            producer.push(random.randint(1, self._most_rows), task, evaluate=evaluate)
        pause = random.uniform(0.0, 4.0 if producer.busy else 2.0) * self._pause_seconds
        self.clock.after(pause, partial(self._push_on, producer))

    # after every event

    def _after_service(self) -> None:
        service = self.service
        if service is None:
            return
        if not service.alive:  # perhaps in the middle of counting
            self._service_is_dead()
            return
        self.books.after_message(service)
        if service.given_up and not service.stopping:
            service.drain()
            self._stopped(service)

    def _on_ack(self, session: Session, ack: Ack) -> None:
        if self.service is not None:
            before, self.disk.before = self.disk.before, lambda _operation: None
            self.books.after_ack(self.service, session, ack)
            self.disk.before = before

    def _after_producer(self, producer: Producer) -> None:
        if producer.alive:
            self.books.after_producer(producer.life, producer.window)

    def _audit(self) -> None:
        windows = {p.life.number: p.window for p in self.producers if p.alive}
        before, self.disk.before = self.disk.before, lambda _operation: None
        self.books.audit(self.service, windows)
        self.disk.before = before
        told: object = None
        if self.service is not None:
            told = self.service.fill
            received, drawn, unseen, dropped = self.service.fill
            if received != drawn + unseen + dropped:
                raise Broken(f"the buffer's books do not balance: {told}")
        self._digest.update(repr((self.clock.now, told)).encode())

    def _tell(self, what: str) -> None:
        if self.trace is not None:
            self.trace.append(f"{self.clock.now:10.4f} event {self.outcome.events:5d}  {what}")

    # blows

    def _service_is_dead(self) -> None:
        self._tell("the service is dead")
        self._tally()
        if self.service is not None and self.service.log is not None and self.service.log.broken:
            self._cache_was_lost = True  # a sync that failed has forgotten what it should write
        self.service = None
        self.books.service_ends()
        self._start_later()

    def crash_service(self) -> None:
        if self.service is not None:
            self.service.die()
            self._service_is_dead()

    def crash_service_in_a_turn(self) -> None:
        if self.service is not None:
            self.service.dies_after_messages = self.random.randint(1, 6)

    def checkpoint(self) -> None:
        """Taken now, on the disk a little later; the log is synced up to it first."""
        if self.service is not None:
            taken = self.service, self.service.checkpoint(), self.books.lineage.copy()
            self.clock.after(self.random.choice((0.0, 0.1, 1.0)), partial(self._write, *taken))

    def _write(self, service: Service, checkpoint: Checkpoint, lineage: Lineage) -> None:
        if service.alive and service.sync_for_checkpoint():
            self._saved = checkpoint, lineage
            service.checkpoint_is_written(checkpoint)

    def stop_service(self) -> None:
        """As on SIGTERM: drain for a while, shut, take the last checkpoint, and go."""
        if self.service is None or self.service.stopping:
            return
        self.service.drain()
        self.clock.after(self.random.uniform(0.01, 3.0), partial(self._stopped, self.service))

    def _stopped(self, service: Service) -> None:
        if service.alive:
            service.buffer.shut()
            self._write(service, service.checkpoint(), self.books.lineage.copy())
            self.clock.after(self.random.uniform(0.001, 1.0), partial(self._ended, service))

    def _ended(self, service: Service) -> None:
        if service.alive:
            service.die()
            self._service_is_dead()

    def lose_power(self) -> None:
        """The machine of the service stops; what was not synced is there or not."""
        self._cache_was_lost = True
        self.crash_service()
        self.disk.lose_power()

    def crash_in_the_middle_of_writing(self) -> None:
        self._dies_after_operations = self.random.randint(1, 20)

    def fill_disk(self) -> None:
        self._disk_full_until = self.clock.now + self.random.uniform(0.5, 8.0)

    def break_disk(self) -> None:
        self._disk_fails_until = self.clock.now + self.random.uniform(0.1, 3.0)

    def stall_disk(self) -> None:
        if self.service is not None:
            self.service.disk_stalled_until = self.clock.now + self.random.uniform(0.5, 8.0)

    def _before_disk(self, operation: Operation) -> None:
        """What the disk has to say to an operation."""
        random, now = self.random, self.clock.now
        if self._dies_after_operations is not None:
            self._dies_after_operations -= 1
            if self._dies_after_operations <= 0:
                self._dies_after_operations = None
                if operation.name == "write":
                    raise Partly(random.randint(0, operation.size_bytes), Crashed())
                raise Crashed()
        if operation.name not in ("create", "write", "sync"):
            return
        if now < self._disk_full_until and operation.name != "sync":
            self._refuse(operation, errno.ENOSPC)
        if now < self._disk_fails_until:
            self._refuse(operation, errno.EIO)

    def _refuse(self, operation: Operation, number: int) -> None:
        error = OSError(number, os.strerror(number))
        if operation.name == "write" and self.random.random() < 0.5:
            raise Partly(self.random.randint(0, operation.size_bytes), error)
        raise error

    def stall_service(self) -> None:
        if self.service is not None:
            self.service.stalled_until = self.clock.now + self.random.uniform(0.5, 15.0)

    def stall_learner(self) -> None:
        if self.service is not None:
            self.service.learner_stalled_until = self.clock.now + self.random.uniform(0.5, 15.0)

    def _any_producer(self) -> Producer | None:
        living = self._living()
        return self.random.choice(living) if living else None

    def stall_producer(self) -> None:
        if producer := self._any_producer():
            producer.stalled_until = self.clock.now + self.random.uniform(0.5, 15.0)

    def kill_producer(self) -> None:
        if producer := self._any_producer():
            if producer.store is not None and self.random.random() < 0.7:
                producer.store.dies_after_writes = self.random.randint(1, 8)
            else:
                self._kill(producer)

    def _kill(self, producer: Producer) -> None:
        """It is started again: in the same run if its window is still there."""
        producer.kill()
        pause = self.random.choice((0.05, 1.0, 8.0))
        if producer.store is None or producer.session.over:
            self.clock.after(pause, partial(self._relaunch, producer.life.producer_id))
        else:
            self._going_on += 1
            self.clock.after(pause, partial(self._go_on, producer, producer.store))

    def _go_on(self, producer: Producer, store: WindowStore) -> None:
        self._going_on -= 1
        window_bytes = producer.window.pool.capacity_rows * ROW_BYTES
        self._run_producer(producer.life, window_bytes, store)
        self.outcome.counts["windows survived"] += 1

    def _relaunch(self, producer_id: str) -> None:
        if not self.healed:
            self._launch(producer_id)

    def relaunch_beside(self) -> None:
        """The old run is a zombie from now on."""
        if producer := self._any_producer():
            self._launch(producer.life.producer_id)

    def end_producer(self) -> None:
        if producer := self._any_producer():
            producer.stop()
            if self.random.random() < 0.5:
                pause = self.random.uniform(0.5, 5.0)
                self.clock.after(pause, partial(self._relaunch, producer.life.producer_id))

    def jump_wall_clock(self) -> None:
        self.wall_seconds += self.random.choice((-3600.0, 3600.0, -1.0))

    def cut(self) -> None:
        if producer := self._any_producer():
            link = producer.socket.link
            if link is not None:
                self.network.end(link, arrives_late=self.random.random() < 0.5)

    def block_both_ways(self) -> None:
        self.block_upward()
        self.block_downward()

    def block_upward(self) -> None:
        for link in self.network.links.values():
            if self.random.random() < 0.6:
                link.upward_blocked_until = self.clock.now + self.random.uniform(0.5, 20.0)

    def block_downward(self) -> None:
        for link in self.network.links.values():
            if self.random.random() < 0.6:
                link.downward_blocked_until = self.clock.now + self.random.uniform(0.5, 20.0)

    # the sum

    def _tally(self) -> None:
        service, counts = self.service, self.outcome.counts
        if service is not None:
            intake = service.intake
            for name in ("duplicate_batches", "go_backs", "full_batches", "fenced_sessions",
                         "expired_sessions", "lost_samples", "unsent_messages"):  # fmt: skip
                counts[name] += getattr(intake, name)

    def _count(self) -> None:
        self._tally()
        counts, books, service = self.outcome.counts, self.books, self.service
        assert service is not None
        counts.update(self.network.happened)
        counts["messages"] += self.network.messages
        counts["pushed"] += sum(life.pushed for life in books.lives)
        counts["producer dropped"] += sum(len(life.dropped) for life in books.lives)
        lineage = books.lineage
        for name, rows in (
            ("trained", service.record.drawn),
            ("probes", service.record.probed),
            ("lost", lineage.lost),
        ):
            counts[name] += sum(map(len, rows.values()))
        counts["buffer dropped"] += service.buffer.snapshot().dropped
        for life in books.lives:
            gone = lineage.lost.get(life.number, set()) | lineage.refused.get(life.number, set())
            settled = lineage.settled.get(life.number, 0)
            counts["quarantined"] += sum(row < settled for row in life.poisoned - gone)
        counts["lives of the service"] += 1
