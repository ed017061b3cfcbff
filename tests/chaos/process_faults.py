"""What befalls processes: SIGKILL and SIGSTOP, at moments drawn from a seed."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from chaos.killing_figures import KillingFigures, Plan
from chaos.rig import Rig
from chaos.services import SESSION_SECONDS

_ROLL_SECONDS = 2.0


class ProcessFaults:
    """Does the faults of a plan to a rig, each under load; afterwards everybody runs again."""

    def __init__(
        self, rig: Rig, plan: Plan, source: random.Random, figures: KillingFigures
    ) -> None:
        self._rig = rig
        self._plan = plan
        self._random = source
        self._counts = figures.faults
        self._kinds = ["under load", "in a checkpoint", "stopped before"]
        self._kinds += ["at a new segment"] if plan.level != "received" else []
        self._kinds += ["again while starting"] if plan.lossless else []

    def all(self) -> list[Callable[[], None]]:
        """All of them, in an order drawn from the seed."""
        faults = [self._kill_service] * self._plan.kills
        faults += [self._kill_producer] * self._plan.producer_kills
        faults += [self._stop_producer] * self._plan.producer_stops
        self._random.shuffle(faults)
        return faults

    def _kill_service(self) -> None:
        """Something at a random moment under load, and then the end of the service."""
        kind, rig = self._random.choice(self._kinds), self._rig
        self._counts[f"kills {kind}"] += 1
        self._wait(0.4)
        if kind == "in a checkpoint":
            asking = threading.Thread(target=rig.checkpoint, kwargs={"must": False})
            asking.start()
            self._wait(0.03)
            rig.daemon.kill()
            asking.join()
        elif kind == "at a new segment":
            self._await_segment()
        elif kind == "stopped before":
            rig.daemon.signal(signal.SIGSTOP)
            self._wait(0.3)
            if self._random.random() < 0.5:
                rig.daemon.signal(signal.SIGCONT)
                self._wait(0.1)
        rig.end()
        if kind == "again while starting":
            rig.launch("--resume")
            self._wait(1.5)
            rig.end()
        rig.start("--resume")

    def _await_segment(self) -> None:
        """Wait until the log's directory changes, for a while."""
        directory = Path(self._rig.daemon.config["log"]["directory"])
        before, deadline = set(directory.iterdir()), time.monotonic() + _ROLL_SECONDS
        while set(directory.iterdir()) == before and time.monotonic() < deadline:
            pass  # the moment matters

    def _kill_producer(self) -> None:
        """A simulation dies and is started again; it goes on where the service's cursor says."""
        self._counts["kills of a producer"] += 1
        producer = self._random.choice(self._rig.producers)
        self._wait(0.3)
        producer.kill()
        producer.start()
        producer.expect("began")

    def _stop_producer(self) -> None:
        """A simulation is stopped for a while, in the middle of whatever it does."""
        self._counts["stops of a producer"] += 1
        producer = self._random.choice(self._rig.producers)
        self._wait(0.2)
        producer.signal(signal.SIGSTOP)
        time.sleep(self._random.choice((0.1, 0.5, SESSION_SECONDS + 1.5)))
        producer.signal(signal.SIGCONT)

    def _wait(self, most_seconds: float) -> None:
        """Any moment will do, and this one was drawn."""
        time.sleep(self._random.uniform(0.0, most_seconds))
