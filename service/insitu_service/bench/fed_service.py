"""A composed service in this process, its learner in a thread, fed by a producer in another."""

from __future__ import annotations

import logging
import multiprocessing
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing.synchronize import Event
from typing import Any

import numpy as np

from insitu_service.bench.service_parts import running_ingest

#: steps until it runs evenly
_WARM_UP_STEPS = 20


def push_endlessly(
    endpoint: str, stop: Event, shape: tuple[int, ...], classes: int, rows: int
) -> None:
    """Push the same random `x` of this shape and `y`, as fast as the service lets, until told."""
    from insitu_producers import Producer

    generator = np.random.default_rng(0)
    x = generator.random((rows, *shape), np.float32)
    y = generator.integers(0, classes, rows)
    logging.getLogger("insitu.producer").setLevel(logging.CRITICAL)  # it is left behind on purpose
    with Producer(
        endpoint,
        stream="bench",
        producer_id="bench",
        linger_seconds=0,
        block_timeout_seconds=0.5,
    ) as producer:
        while not stop.is_set():
            producer.push({"x": x, "y": y})


class FedService:
    """Steps per second of a service whose producer pushes as fast as it is let.

    Args:
        config: with one stream, `bench`, of fields `x` of `shape` and `y`.
        rows: of a push.
    """

    def __init__(
        self, config: Mapping[str, Any], *, shape: tuple[int, ...], classes: int, rows: int
    ) -> None:
        self._config = config
        self._given = (shape, classes, rows)

    def steps_per_second(self, seconds: float) -> float:
        """Over so many seconds, once it runs evenly."""
        spawn = multiprocessing.get_context("spawn")
        stop = spawn.Event()
        with running_ingest(self._config) as service:
            learner = threading.Thread(target=service.learner.run, name="learner", daemon=True)
            endpoint = service.ingest.endpoints[0]
            child = spawn.Process(target=push_endlessly, args=(endpoint, stop, *self._given))
            child.start()
            learner.start()
            tally = service.tally
            _wait(lambda: tally.steps > _WARM_UP_STEPS)
            began, steps = time.perf_counter(), tally.steps
            time.sleep(seconds)
            rate = (tally.steps - steps) / (time.perf_counter() - began)
            service.commands.post("stop", {"drain": False})
            learner.join()
            stop.set()
            child.join()
        return rate


def _wait(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.01)
