"""kill -9 and stop at random moments, on a service under load from several producers.

    python -m chaos.killing 200 --level logged

After every fault the producers pause, and the books must be right to the row, per producer. At
the end all rows are trained, each once; and the weights are those of a service that nobody
disturbed and that got the same rows in the same order.
"""

from __future__ import annotations

import argparse
import random
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from http.client import HTTPException
from pathlib import Path

from chaos.books import Books
from chaos.killing_figures import KillingFigures, Plan
from chaos.power_loss import Shadow
from chaos.producers import ProducerProcess
from chaos.pushing import Pushing
from chaos.seen import Seen
from chaos.services import SESSION_SECONDS, environment, watched
from chaos.undisturbed import differences_to_undisturbed
from chaos.witnesses import differences_to_replay, log_flaws
from daemon import Daemon, wait_for

_QUIET_SECONDS = 60.0
_BATCH_SIZE = 8
_ROLL_SECONDS = 2.0


class Killing:
    """One run of the harness in a directory of its own."""

    def __init__(self, directory: Path, plan: Plan) -> None:
        self.plan = plan
        self.figures = KillingFigures(plan)
        self._directory = directory
        self._random = random.Random(plan.seed)
        self._seen = Seen(directory / "seen.txt")
        log = {} if plan.level == "received" else _log(directory, plan)
        plugin = "chaos_power" if plan.power else "chaos_seen"
        self._daemon: Daemon = watched(
            directory / "service", plugin=plugin, checkpoint={"keep": 2}, **log
        )
        roots = [directory / "service" / name for name in ("log", "checkpoints")]
        self._shadow = Shadow(directory / "shadow", roots) if plan.power else None
        how = {"window_directory": str(directory / "windows")} if plan.window else {}
        told = Pushing(
            self._daemon.endpoint, 0, "", most_rows=plan.most_rows, pause_seconds=0.01,
            with_bad=plan.with_bad, producer=how,
        )  # fmt: skip
        self._producers = [
            ProducerProcess(replace(told, index=index), directory)
            for index in range(plan.producers)
        ]
        self._kinds = ["under load", "in a checkpoint", "stopped before"]
        self._kinds += ["at a new segment"] if log else []
        #: rows that were lost for good before each checkpoint, by its name
        self._lost_before: dict[str, int] = {}

    def run(self) -> KillingFigures:
        """All of it; raises where the books are wrong."""
        began = time.monotonic()
        with self._daemon:
            try:
                self._begin()
                for fault in self._faults():
                    fault()
                    self._check()
                self._finish()
            except BaseException as error:
                error.add_note(self._story())
                raise
            finally:
                for producer in self._producers:
                    producer.kill()
        self.figures.seconds = time.monotonic() - began
        return self.figures

    def _story(self) -> str:
        """What was going on, for whoever reads of a failure."""
        lines = self._daemon.log().splitlines()[-20:]
        for path in ("/status", "/readyz", "/metrics"):
            lines += self._daemon.get(path)[1].splitlines()
        for producer in self._producers:
            lines += [producer.name, *producer.log().splitlines()[-10:]]
        faults = dict(self.figures.faults)
        return "\n".join(["", str(self.figures.books), str(faults), *lines])

    def _begin(self) -> None:
        self._start()
        for producer in self._producers:
            producer.start()
        for producer in self._producers:
            producer.expect("began")
        self._checkpoint()

    def _start(self, *arguments: str) -> None:
        if self._shadow is not None:
            self._shadow.begin()
        began = time.monotonic()
        self._daemon.start(*arguments, environment=environment(self._directory))
        seconds = time.monotonic() - began
        self.figures.slowest_start_seconds = max(self.figures.slowest_start_seconds, seconds)

    # faults

    def _faults(self) -> list[Callable[[], None]]:
        """All of them, in an order drawn from the seed."""
        faults = [self._kill_service] * self.plan.kills
        faults += [self._kill_producer] * self.plan.producer_kills
        faults += [self._stop_producer] * self.plan.producer_stops
        self._random.shuffle(faults)
        return faults

    def _kill_service(self) -> None:
        """Something at a random moment under load, and then the end of the service."""
        kind = self._random.choice(self._kinds)
        self.figures.faults[f"kills {kind}"] += 1
        time.sleep(self._random.uniform(0.0, 0.4))  # the fault: any moment
        if kind == "in a checkpoint":
            asking = threading.Thread(target=self._checkpoint, args=(False,))
            asking.start()
            time.sleep(self._random.uniform(0.0, 0.03))
            self._daemon.kill()
            asking.join()
        elif kind == "at a new segment":
            self._await_segment()
        elif kind == "stopped before":
            self._daemon.signal(signal.SIGSTOP)
            time.sleep(self._random.uniform(0.0, 0.3))
            if self._random.random() < 0.5:
                self._daemon.signal(signal.SIGCONT)
                time.sleep(self._random.uniform(0.0, 0.1))
        self._daemon.kill()
        if self._shadow is not None:
            self.figures.forgotten_bytes += self._shadow.lose_power(self._random)
        self._start("--resume")

    def _await_segment(self) -> None:
        """Wait until the log's directory changes, for a while."""
        directory = Path(self._daemon.config["log"]["directory"])
        before, deadline = set(directory.iterdir()), time.monotonic() + _ROLL_SECONDS
        while set(directory.iterdir()) == before and time.monotonic() < deadline:
            pass  # the moment matters

    def _kill_producer(self) -> None:
        """A simulation dies and is started again; it goes on where the service's cursor says."""
        self.figures.faults["kills of a producer"] += 1
        producer = self._random.choice(self._producers)
        time.sleep(self._random.uniform(0.0, 0.3))
        producer.kill()
        producer.start()
        producer.expect("began")

    def _stop_producer(self) -> None:
        """A simulation is stopped for a while, in the middle of whatever it does."""
        self.figures.faults["stops of a producer"] += 1
        producer = self._random.choice(self._producers)
        time.sleep(self._random.uniform(0.0, 0.2))
        producer.signal(signal.SIGSTOP)
        time.sleep(self._random.choice((0.1, 0.5, SESSION_SECONDS + 1.5)))
        producer.signal(signal.SIGCONT)

    def _checkpoint(self, must: bool = True) -> None:
        try:
            lost = self._lost()
            status, answer = self._daemon.post("checkpoint")
        except (OSError, AssertionError, ValueError, HTTPException):
            assert not must
            return  # it was killed meanwhile
        if status == 200:
            self._lost_before[Path(answer["result"]["path"]).name] = lost
        assert status == 200 or not must, answer

    # books

    def _check(self) -> None:
        """Everybody pauses; then every row must be where the books say."""
        for producer in self._producers:
            producer.say("pause")
        for producer in self._producers:
            producer.expect("paused")
        self._balanced()
        if self._random.random() < 0.5 or not self.plan.lossless:
            self._checkpoint()  # so that each life counts what it has lost, and nothing twice
        for producer in self._producers:
            producer.say("go")

    def _balanced(self) -> None:
        """Wait until the service has trained what it can, and look at every row."""
        wait_for(self._books_agree, "the books to agree", _QUIET_SECONDS)

    def _books_agree(self) -> bool:
        pending = self._daemon.status()["buffer"]["pending_samples"]
        if pending >= _BATCH_SIZE:
            return False
        produced = {producer.told.index: producer.produced() for producer in self._producers}
        seen = self._seen.follow()
        books = Books.of(produced, seen, with_bad=self.plan.with_bad)
        lost = self._lost()
        self.figures.books, self.figures.lost = books, lost
        self.figures.repeated_steps, self.figures.changed_steps = seen.repeated, seen.changed
        self.figures.steps = max(seen.steps, default=0)
        assert books.total("doubled") == 0, books
        assert books.total("strange") == 0, books
        assert lost == 0 or not self.plan.lossless, lost
        return books.total("elsewhere") == pending + lost

    def _lost(self) -> int:
        """Rows lost for good, by the service's count: in this life and before its checkpoint."""
        resumed = self._daemon.status()["service"]["resumed_from"]
        before = self._lost_before.get(resumed, 0) if resumed else 0
        return before + int(self._daemon.metric("insitu_lost_samples_total"))

    def _finish(self) -> None:
        """The streams end, all is trained; then the weights are compared."""
        for producer in self._producers:
            producer.say("finish")
        for producer in self._producers:
            producer.expect("finished")
        wait_for(lambda: self._daemon.metric("insitu_sessions") == 0, "all producers to leave")
        self._balanced()
        assert self._daemon.stop() == 0
        figures, daemon, directory = self.figures, self._daemon, self._directory
        order = self._seen.follow().order
        undisturbed = directory / "undisturbed"
        figures.differences = differences_to_undisturbed(undisturbed, daemon, order)
        if self.plan.level != "received":
            figures.flaws = log_flaws(daemon, directory)
        if self.plan.keeps_log:
            replayed = environment(directory) | {"CHAOS_SEEN": str(directory / "replayed.txt")}
            figures.replay_differences = differences_to_replay(daemon, directory, replayed)


def _log(directory: Path, plan: Plan) -> dict[str, dict[str, object]]:
    return {
        "log": {
            "directory": str(directory / "service" / "log"),
            "ack_level": plan.level,
            "segment_bytes": plan.segment_bytes,
            "keep_bytes": 1 << 40 if plan.keeps_log else 0,
        }
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kills", type=int)
    parser.add_argument("--level", default="logged", choices=("received", "logged", "durable"))
    parser.add_argument("--producer-kills", type=int, default=0)
    parser.add_argument("--producer-stops", type=int, default=0)
    parser.add_argument("--window", action="store_true", help="producers' windows in files")
    parser.add_argument("--power", action="store_true", help="what was not synced is forgotten")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chaos-") as place:
        print(Killing(Path(place), Plan(**vars(asked))).run())
