"""What is to be broken: a service, the producers around it, and, where it may go, the power."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from http.client import HTTPException
from pathlib import Path

from chaos.killing_figures import KillingFigures, Plan
from chaos.power_loss import Shadow
from chaos.producers import ProducerProcess
from chaos.pushing import Pushing
from chaos.services import environment, watched


class Rig:
    """All processes of a run, in a directory of its own.

    Args:
        source: of what power loss leaves.
        figures: of the run; what happens is counted there.
    """

    def __init__(
        self, directory: Path, plan: Plan, source: random.Random, figures: KillingFigures
    ) -> None:
        plugin = "chaos_power" if plan.power else "chaos_seen"
        place = directory / "service"
        self.daemon = watched(place, plugin=plugin, checkpoint={"keep": 2}, **_log(place, plan))
        how = {"window_directory": str(directory / "windows")} if plan.window else {}
        told = Pushing(
            self.daemon.endpoint, 0, "", most_rows=plan.most_rows, pause_seconds=0.01,
            with_bad=plan.with_bad, producer=how,
        )  # fmt: skip
        self.producers = [
            ProducerProcess(replace(told, index=index), directory)
            for index in range(plan.producers)
        ]
        self._directory = directory
        self._source = source
        self._has_started = False
        self._figures = figures
        roots = [place / "log", place / "checkpoints"]
        self._shadow = Shadow(directory / "shadow", roots) if plan.power else None
        #: rows that were lost for good before each checkpoint, by its name
        self._lost_before: dict[str, int] = {}

    # the service

    def start(self, *arguments: str) -> None:
        """Start the service and wait until it is ready; the first time all is imported, too."""
        began, figures = time.monotonic(), self._figures
        self.launch(*arguments)
        self.daemon.wait_ready()
        seconds = time.monotonic() - began
        if self._has_started:
            figures.slowest_start_seconds = max(figures.slowest_start_seconds, seconds)
        self._has_started = True

    def launch(self, *arguments: str) -> None:
        """Start it without waiting."""
        if self._shadow is not None:
            self._shadow.begin()
        self.daemon.launch(*arguments, environment=environment(self._directory))

    def end(self) -> None:
        """kill -9, and the power with it if that is the plan."""
        self.daemon.kill()
        if self._shadow is not None:
            self._figures.forgotten_bytes += self._shadow.lose_power(self._source)

    def checkpoint(self, *, must: bool = True) -> None:
        """Ask for a checkpoint; it may fail, unless it must not, because the service is killed."""
        try:
            lost = self.lost()
            status, answer = self.daemon.post("checkpoint")
        except (OSError, AssertionError, ValueError, HTTPException):
            assert not must
            return
        if status == 200:
            self._lost_before[Path(answer["result"]["path"]).name] = lost
        assert status == 200 or not must, answer

    def lost(self) -> int:
        """Rows lost for good, by the service's count: in this life and before its checkpoint."""
        resumed = self.daemon.status()["service"]["resumed_from"]
        before = self._lost_before.get(resumed, 0) if resumed else 0
        return before + int(self.daemon.metric("insitu_lost_samples_total"))

    # the producers

    def tell_all(self, word: str, answer: str = "") -> None:
        """Say a word to all producers, and wait until all have answered, if they are to."""
        for producer in self.producers:
            producer.say(word)
        if answer:
            self.expect_all(answer)

    def expect_all(self, answer: str) -> None:
        for producer in self.producers:
            producer.expect(answer)

    def produced(self) -> dict[int, int]:
        """Rows by producer, as they wrote it down."""
        return {producer.told.index: producer.produced() for producer in self.producers}

    # after a failure

    def story(self) -> str:
        """What was going on, for whoever reads of it."""
        lines = self.daemon.log().splitlines()[-20:]
        for path in ("/status", "/readyz", "/metrics"):
            lines += self.daemon.get(path)[1].splitlines()
        for producer in self.producers:
            lines += [producer.name, *producer.log().splitlines()[-10:]]
        return "\n".join(["", str(self._figures.books), str(dict(self._figures.faults)), *lines])


def _log(place: Path, plan: Plan) -> dict[str, dict[str, object]]:
    if plan.level == "received":
        return {}
    return {
        "log": {
            "directory": str(place / "log"),
            "ack_level": plan.level,
            "segment_bytes": plan.segment_bytes,
            "keep_bytes": 1 << 40 if plan.keeps_log else 0,
        }
    }
