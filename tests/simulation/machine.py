"""The machine of the service: its disk, its lives one after another, and what befalls them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from random import Random

from insitu.errors import OperatorError
from insitu.wire.messages import Ack
from insitu_service.ingest.session import Session
from simulated_disk import Crashed, Operation, Partly, SimulatedDisk
from simulation.books import Books, Lineage
from simulation.life import require
from simulation.network import Network
from simulation.service import Checkpoint, Service
from simulation.settings import Settings
from simulation.virtual_clock import VirtualClock


class Machine:
    """Runs the service, and starts it again whenever it has ended.

    Args:
        seed: of the service's own generators.
        ended: told of every service that ends, before it is forgotten.
        tell: for the trace.
    """

    def __init__(
        self,
        settings: Settings,
        network: Network,
        clock: VirtualClock,
        random: Random,
        books: Books,
        seed: int,
        *,
        ended: Callable[[Service], None],
        tell: Callable[[str], None],
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.random = random
        self.service: Service | None = None
        self.wall_seconds = 1e9
        self.healed = False
        self.disk = SimulatedDisk(random)
        self.disk.before = self._before_disk
        self._network = network
        self._books = books
        self._seed = seed
        self._on_ended = ended
        self._tell = tell
        self._saved: tuple[Checkpoint | None, Lineage] = (None, Lineage())
        self._checkpoints = self._written = 0
        self._disk_full_until = self._disk_fails_until = 0.0
        self._dies_after_operations: int | None = None
        self._cache_was_lost = False

    def wall_clock(self) -> float:
        """Seconds since 1970, as the machines have it."""
        return self.wall_seconds + self.clock.now

    def heal(self) -> None:
        self.healed = True
        self._disk_full_until = self._disk_fails_until = 0.0
        self._dies_after_operations = None
        if self.service is not None:
            service = self.service
            service.stalled_until = service.learner_stalled_until = 0.0
            service.disk_stalled_until = 0.0
            service.dies_after_messages = None

    @contextmanager
    def looked_at(self) -> Iterator[None]:
        """Whoever only looks meets no faults of the disk."""
        before, self.disk.before = self.disk.before, lambda _operation: None
        try:
            yield
        finally:
            self.disk.before = before

    # lives of the service

    def start(self) -> None:
        if self.service is not None:
            return
        checkpoint, lineage = self._saved
        try:
            service = Service(
                self.settings, self._network, self.disk, self.clock, self._seed, checkpoint,
                wall_clock=self.wall_clock, on_ack=self._on_ack, after_event=self._after_service,
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
        with self.looked_at():
            self._books.service_begins(service, lineage, cache_was_lost=self._cache_was_lost)
        self._cache_was_lost = False
        self._tell("the service starts")

    def _start_later(self) -> None:
        self.disk.kill()
        self.clock.after(self.random.choice((0.05, 1.0, 8.0)), self.start)

    def _after_service(self) -> None:
        service = self.service
        if service is None:
            return
        if not service.alive:  # perhaps in the middle of counting
            self._service_is_dead()
            return
        self._books.after_message(service)
        if service.given_up and not service.stopping:
            service.drain()
            self._stopped(service)

    def _on_ack(self, session: Session, ack: Ack) -> None:
        if self.service is not None:
            with self.looked_at():
                self._books.after_ack(self.service, session, ack)

    def _service_is_dead(self) -> None:
        self._tell("the service is dead")
        assert self.service is not None
        self._on_ended(self.service)
        if self.service.log is not None and self.service.log.broken:
            self._cache_was_lost = True  # a sync that failed has forgotten what it should write
        self.service = None
        self._books.service_ends()
        self._start_later()

    # blows

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
            self.clock.after(self.random.choice((0.0, 0.1, 1.0)), self._taken(self.service))

    def _taken(self, service: Service) -> Callable[[], None]:
        """A checkpoint of this moment, to be written."""
        self._checkpoints += 1
        lineage = self._books.lineage.copy()
        return partial(self._write, self._checkpoints, service, service.checkpoint(), lineage)

    def _write(
        self, number: int, service: Service, checkpoint: Checkpoint, lineage: Lineage
    ) -> None:
        if number < self._written:  # the writer keeps their order: this one came before
            return
        if service.alive and service.sync_for_checkpoint():
            self._written = number
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
            self._taken(service)()
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

    def stall_service(self) -> None:
        if self.service is not None:
            self.service.stalled_until = self.clock.now + self.random.uniform(0.5, 15.0)

    def stall_learner(self) -> None:
        if self.service is not None:
            self.service.learner_stalled_until = self.clock.now + self.random.uniform(0.5, 15.0)

    def jump_wall_clock(self) -> None:
        self.wall_seconds += self.random.choice((-3600.0, 3600.0, -1.0))

    # the disk

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
