"""kill -9 and stop at random moments, on a service under load from several producers.

    python -m chaos.killing 200 --level logged

After every fault the producers pause, and the books must be right to the row, per producer. At
the end all rows are trained, each once; and the weights are those of a service that nobody
disturbed and that got the same rows in the same order.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path

from chaos.books import Books
from chaos.killing_figures import KillingFigures, Plan
from chaos.process_faults import ProcessFaults
from chaos.rig import Rig
from chaos.seen import Seen
from chaos.services import environment
from chaos.undisturbed import differences_to_undisturbed
from chaos.witnesses import differences_to_replay, log_flaws
from daemon import wait_for

_QUIET_SECONDS = 60.0
_BATCH_SIZE = 8


class Killing:
    """One run of the harness in a directory of its own."""

    def __init__(self, directory: Path, plan: Plan) -> None:
        self.plan = plan
        self.figures = KillingFigures(plan)
        self._directory = directory
        self._random = random.Random(plan.seed)
        self._seen = Seen(directory / "seen.txt")
        self._rig = Rig(directory, plan, self._random, self.figures)
        self._faults = ProcessFaults(self._rig, plan, self._random, self.figures)

    def run(self) -> KillingFigures:
        """All of it; raises where the books are wrong."""
        began = time.monotonic()
        with self._rig.daemon:
            try:
                self._break()
                self._finish()
            except BaseException as error:
                error.add_note(self._rig.story())
                raise
            finally:
                for producer in self._rig.producers:
                    producer.kill()
        self._compare()
        self.figures.seconds = time.monotonic() - began
        return self.figures

    def _break(self) -> None:
        """One fault after the other; after each everybody pauses, and the books are looked at."""
        rig = self._rig
        rig.start()
        for producer in rig.producers:
            producer.start()
        rig.expect_all("began")
        rig.checkpoint()
        for fault in self._faults.all():
            fault()
            rig.tell_all("pause", "paused")
            self._balance()
            if self._random.random() < 0.5 or not self.plan.lossless:
                rig.checkpoint()  # so that each life counts what it has lost, and nothing twice
            rig.tell_all("go")

    def _balance(self) -> None:
        """Wait until the service has trained what it can, and look at every row."""
        wait_for(self._books_agree, "the books to agree", _QUIET_SECONDS)

    def _books_agree(self) -> bool:
        pending = self._rig.daemon.status()["buffer"]["pending_samples"]
        if pending >= _BATCH_SIZE:
            return False
        figures, seen, lost = self.figures, self._seen.follow(), self._rig.lost()
        books = Books.of(self._rig.produced(), seen, with_bad=self.plan.with_bad)
        figures.books, figures.lost, figures.steps = books, lost, max(seen.steps, default=0)
        figures.repeated_steps, figures.changed_steps = seen.repeated, seen.changed
        assert books.total("doubled") == 0, books
        assert books.total("strange") == 0, books
        assert lost == 0 or not self.plan.lossless, lost
        return books.total("elsewhere") == pending + lost

    def _finish(self) -> None:
        """The streams end, all is trained, and the service stops."""
        self._rig.tell_all("finish", "finished")
        daemon = self._rig.daemon
        wait_for(lambda: daemon.metric("insitu_sessions") == 0, "all producers to leave")
        self._balance()
        assert daemon.stop() == 0

    def _compare(self) -> None:
        """The weights with those of a run that nobody disturbed; and what the log says."""
        figures, daemon, directory = self.figures, self._rig.daemon, self._directory
        order, undisturbed = self._seen.follow().order, directory / "undisturbed"
        figures.differences = differences_to_undisturbed(undisturbed, daemon, order)
        if self.plan.level != "received":
            figures.flaws = log_flaws(daemon, directory)
        if self.plan.keeps_log:
            replayed = environment(directory) | {"CHAOS_SEEN": str(directory / "replayed.txt")}
            figures.replay_differences = differences_to_replay(daemon, directory, replayed)


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
