"""The producers: who they are, what they push, and what befalls them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random

from simulation.books import Books
from simulation.course import Course
from simulation.life import Life
from simulation.network import Network
from simulation.producer import Producer
from simulation.resumptions import Resumptions
from simulation.samples import ROW_BYTES
from simulation.surviving import WindowStore
from simulation.virtual_clock import VirtualClock


class Fleet:
    """Runs the producers, and starts them again when they were killed.

    Args:
        wall_clock: epochs are made of it.
        busy_seconds: how long they push.
        resumption: which of them go on where a former run was left.
    """

    def __init__(
        self,
        network: Network,
        clock: VirtualClock,
        random: Random,
        books: Books,
        *,
        wall_clock: Callable[[], float],
        busy_seconds: float,
        resumption: Resumptions,
    ) -> None:
        self.producers: list[Producer] = []
        self.network = network
        self.clock = clock
        self.random = random
        self.healed = False
        #: killed ones that will be back, and those that were
        self.going_on = self.came_back = 0
        self._books = books
        self._resumption = resumption
        self._wall_clock = wall_clock
        self._poisons = random.random() < 0.4
        self._windows_survive = random.random() < 0.5
        self._probes = random.random() < 0.3
        self._pause_seconds = busy_seconds / random.choice((10, 25, 50))
        self._most_rows = random.choice((2, 6, 15))

    def heal(self) -> None:
        self.healed = True
        for producer in self.producers:
            producer.stalled_until = 0.0
            if producer.store is not None:
                producer.store.dies_after_writes = None

    def living(self) -> list[Producer]:
        return [p for p in self.producers if p.alive and not p.session.over]

    def launch(self, producer_id: str) -> None:
        """A new run, with a window of its own that may survive."""
        epoch = int((self._wall_clock() + self.random.uniform(0.0, 0.001)) * 1e9)
        course = self._resumption.course(producer_id)
        life = self._books.begin_life(
            producer_id, epoch, poisons=self._poisons, resumes=course is not None
        )
        window_bytes = self.random.choice((8, 40, 100)) * ROW_BYTES
        survives = self._windows_survive and self.random.random() < 0.7
        store = WindowStore(window_bytes, self.random) if survives and course is None else None
        self._run_producer(life, window_bytes, store, course)

    def _run_producer(
        self, life: Life, window_bytes: int, store: WindowStore | None, course: Course | None = None
    ) -> None:
        random = self.random
        producer = Producer(
            life, self.network, self.clock, random,
            window_bytes=window_bytes,
            store=store,
            course=course,
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
        if producer.course is not None:
            pause *= producer.course.hurry
        self.clock.after(pause, partial(self._push_on, producer))

    def _after_producer(self, producer: Producer) -> None:
        if producer.alive:
            self._books.after_producer(producer.life, producer.window)

    # blows

    def stall_producer(self) -> None:
        if producer := self._any_producer():
            producer.stalled_until = self.clock.now + self.random.uniform(0.5, 15.0)

    def kill_producer(self) -> None:
        if producer := self._any_producer():
            if producer.store is not None and self.random.random() < 0.7:
                producer.store.dies_after_writes = self.random.randint(1, 8)
            else:
                self._kill(producer)

    def kill_in_a_run(self) -> None:
        """Of a simulation that resumes, when it has pushed; the next run comes soon."""
        if self.healed:
            return
        pushing = [p for p in self.living() if p.course is not None and p.life.has_pushed]
        if not pushing:
            self.clock.after(0.1, self.kill_in_a_run)
            return
        producer = self._resumption.random.choice(pushing)
        producer.kill()
        pause = self._resumption.random.choice((0.05, 0.05, 1.0))
        self.clock.after(pause, partial(self._relaunch, producer.life.producer_id))

    def _kill(self, producer: Producer) -> None:
        """It is started again: in the same run if its window is still there."""
        producer.kill()
        pause = self.random.choice((0.05, 1.0, 8.0))
        if producer.store is None or producer.session.over:
            self.clock.after(pause, partial(self._relaunch, producer.life.producer_id))
        else:
            self.going_on += 1
            self.clock.after(pause, partial(self._go_on, producer, producer.store))

    def _go_on(self, producer: Producer, store: WindowStore) -> None:
        self.going_on -= 1
        window_bytes = producer.window.pool.capacity_rows * ROW_BYTES
        self._run_producer(producer.life, window_bytes, store)
        self.came_back += 1

    def _relaunch(self, producer_id: str) -> None:
        if not self.healed:
            self.launch(producer_id)

    def relaunch_beside(self) -> None:
        """The old run is a zombie from now on."""
        if producer := self._any_producer():
            self.launch(producer.life.producer_id)

    def end_producer(self) -> None:
        if producer := self._any_producer():
            producer.stop()
            if self.random.random() < 0.5:
                pause = self.random.uniform(0.5, 5.0)
                self.clock.after(pause, partial(self._relaunch, producer.life.producer_id))

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

    def _any_producer(self) -> Producer | None:
        living = self.living()
        return self.random.choice(living) if living else None
