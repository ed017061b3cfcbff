"""Many producers at once: equal shares at equal offer, and nobody pays for a bad neighbour.

    python -m chaos.fairness 256

First all push as much as is taken. Then they push at a fixed rate, well below what is taken, in
rounds that alternate: by themselves; while a hostile one floods a door that is not ours, on the
same machine; and beside one that is stopped in full flow, one behind a line that lets little
through, and the hostile one. Time to acknowledgement is taken from the push.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chaos.books import Books
from chaos.crowd_member import Crowding
from chaos.decoy import Decoying
from chaos.fairness_figures import FairnessFigures, Interval
from chaos.hostile import Hostility
from chaos.network_faults import NetworkFault, Weather
from chaos.resources import cpu_seconds
from chaos.seen import Seen
from chaos.services import environment, watched
from chaos.talking import Talking
from chaos.tcp_proxy import TcpProxy
from daemon import Daemon, wait_for

_BATCH_SIZE = 64
_RING_ROWS = 80  # of each producer
_SLOW_BYTES_PER_SECOND = 2000.0
#: at equal offer, on a machine that has hardly any time for us
_MOST_SECONDS = 300.0
#: after a change, until it shows
_SETTLE_SECONDS = 2.0
#: numbers of the bad ones, as producers
_STALLED, _SLOW = 900, 901


@dataclass(frozen=True)
class Offer:
    """What is to be done.

    Args:
        producers: good ones.
        warm_up_seconds: at equal offer, before shares count; who comes first to an empty service
            is given more, and less for some seconds afterwards.
        seconds: at equal offer, at least.
        least_rows: that each is to have had on average by then; credit comes in portions, of which
            a few say nothing about shares.
        rounds: of each kind.
        round_seconds: of one.
        load: share of the capacity that is offered in the rounds.
        hostile_messages_per_second: that the hostile one tries to send.
        bad: which of the bad ones take part, to see who is to blame.
    """

    producers: int
    warm_up_seconds: float = 15.0
    seconds: float = 20.0
    least_rows: int = 2500
    rounds: int = 8
    round_seconds: float = 5.0
    load: float = 0.5
    hostile_messages_per_second: float = 2000.0
    bad: tuple[str, ...] = ("stalled", "slow", "hostile")


#: books and shares on any machine; of times it says nothing
SHORT = Offer(
    32, warm_up_seconds=1.0, seconds=3.0, least_rows=2000, rounds=1, round_seconds=1.5,
)  # fmt: skip


class Fairness:
    """A service, many good producers, and three bad ones."""

    def __init__(self, directory: Path, offer: Offer) -> None:
        self._directory, self._offer = directory, offer
        self.figures = FairnessFigures(offer.producers)
        self._throttled = threading.Event()
        self._daemon = watched(
            directory / "service",
            trainer={"batch_size": _BATCH_SIZE},
            buffer={"capacity_samples": _RING_ROWS * offer.producers},
            stream={"max_producers": offer.producers + 64, "session_timeout_seconds": 60.0},
        )

    def run(self) -> FairnessFigures:
        """The books must be right to the row at the end, or this raises."""
        with self._daemon as daemon:
            daemon.start(environment=environment(self._directory))
            port = int(daemon.endpoint.rsplit(":", 1)[1])
            with TcpProxy(port, self._weather()) as proxy:
                self._start(daemon.endpoint, f"tcp://127.0.0.1:{proxy.port}")
                try:
                    self._good.ask("ready")
                    self._equal_offer()
                    self._rounds()
                    self._end(daemon)
                finally:
                    for process in self._processes:
                        process.kill()
            assert daemon.stop() == 0
        return self.figures

    def _start(self, endpoint: str, narrow_endpoint: str) -> None:
        place, seconds = self._directory, self._offer.hostile_messages_per_second
        good = Crowding(endpoint, 0, self._offer.producers)
        self._good = Talking("chaos.crowd", good, place, "good")
        self._processes = [self._good]
        self._stalled = self._crowd_of_one(endpoint, _STALLED, "stalled")
        self._slow = self._crowd_of_one(narrow_endpoint, _SLOW, "slow")
        self._hostile = Talking("chaos.hostile", Hostility(endpoint, seconds), place, "hostile")
        self._decoy = Talking("chaos.decoy", Decoying(), place, "decoy")
        elsewhere = f"tcp://127.0.0.1:{self._decoy.ask('port')['port']}"
        misled = Hostility(elsewhere, seconds)
        self._misled = Talking("chaos.hostile", misled, place, "misled")
        self._processes += [self._hostile, self._decoy, self._misled]

    def _crowd_of_one(self, endpoint: str, number: int, name: str) -> Talking:
        found = Talking("chaos.crowd", Crowding(endpoint, number, 1), self._directory, name)
        self._processes.append(found)
        return found

    def _weather(self) -> Iterator[Weather]:
        """Of the slow one's line."""
        while True:
            fault = NetworkFault.THROTTLE if self._throttled.is_set() else NetworkFault.CALM
            yield Weather(fault, 0.1, _SLOW_BYTES_PER_SECOND)

    # -- what is measured --------------------------------------------------------------------

    def _equal_offer(self) -> None:
        self._good.ask("full")
        time.sleep(self._offer.warm_up_seconds)
        self._good.ask("mark")
        began, rows = time.monotonic(), np.zeros(self._offer.producers, np.int64)
        while (
            time.monotonic() - began < self._offer.seconds or rows.mean() < self._offer.least_rows
        ):
            assert time.monotonic() - began < _MOST_SECONDS, f"in {_MOST_SECONDS} s only {rows}"
            time.sleep(1.0)  # between two looks
            rows += list(self._good.ask("mark")["accepted_rows"].values())
        self.figures.capacity_rows = float(rows.sum()) / (time.monotonic() - began)
        self.figures.accepted = rows.tolist()
        self._good.ask("stop")

    def _interval(self, seconds: float) -> Interval:
        """Of the good ones."""
        pid = self._pid()
        began, cpu = time.monotonic(), cpu_seconds(pid)
        time.sleep(seconds)  # the length of the interval is what was asked for
        marked = self._good.ask("mark")
        self.figures.refused_pushes += marked["refused_pushes"]
        return Interval(
            time.monotonic() - began,
            sum(marked["accepted_rows"].values()),
            np.array(marked["latencies_us"]) * 1e-6,
            cpu_seconds(pid) - cpu,
        )

    def _pid(self) -> int:
        assert self._daemon.process is not None
        return self._daemon.process.pid

    def _rounds(self) -> None:
        """Forth and back, so that a drift meets all kinds alike."""
        offer, figures = self._offer, self.figures
        if not offer.rounds:
            return
        figures.rate_rows = offer.load * figures.capacity_rows
        each = figures.rate_rows / offer.producers
        for crowd in (self._good, self._stalled, self._slow):
            crowd.ask("rate", each)
        self._settle()
        kinds = [self._alone, self._beside_a_decoy, self._in_company]
        for index in range(offer.rounds):
            for measure in kinds if index % 2 == 0 else kinds[::-1]:
                measure()

    def _alone(self) -> None:
        self.figures.alone.append(self._measured())

    def _beside_a_decoy(self) -> None:
        if "hostile" in self._offer.bad:
            self._misled.ask("go")
        self.figures.beside_a_decoy.append(self._measured())
        self._misled.ask("pause")

    def _in_company(self) -> None:
        self._misbehave()
        self.figures.in_company.append(self._measured())
        self._behave()

    def _measured(self) -> Interval:
        self._settle()
        return self._interval(self._offer.round_seconds)

    def _settle(self) -> None:
        time.sleep(_SETTLE_SECONDS)
        self._good.ask("mark")

    def _misbehave(self) -> None:
        bad = self._offer.bad
        if "stalled" in bad:
            self._stalled.stop()
        if "slow" in bad:
            self._throttled.set()
        if "hostile" in bad:
            self._hostile.ask("go")

    def _behave(self) -> None:
        did = self._hostile.ask("pause")
        self.figures.hostile = {name: n for name, n in did.items() if name != "cpu_seconds"}
        self._throttled.clear()
        self._stalled.go_on()

    # -- the end -----------------------------------------------------------------------------

    def _end(self, daemon: Daemon) -> None:
        crowds = (self._good, self._stalled, self._slow)
        for crowd in crowds:
            crowd.ask("stop")
        for crowd in crowds:
            crowd.say("finish")
        for crowd in crowds:
            crowd.answer()
        produced: dict[int, int] = {}
        for crowd in crowds:
            pushed = crowd.ask("mark")["pushed_rows"]
            produced |= {int(number): rows for number, rows in pushed.items()}
        for each in (self._hostile, self._misled, self._decoy):
            each.ask("finish")
        self.figures.books = self._books(daemon, produced)
        for reason in ("malformed", "no_session", "unexpected", "flood"):
            count = _count(daemon, "insitu_refused_messages_total", reason=reason)
            self.figures.counted[f"{reason} messages"] = count
        self.figures.counted["greetings refused"] = _count(daemon, "insitu_refused_sessions_total")
        self.figures.counted["connections cut"] = _count(daemon, "insitu_cut_connections_total")

    def _books(self, daemon: Daemon, produced: dict[int, int]) -> Books:
        """Right to the row: all that was produced is trained, but for a last batch unfinished."""
        seen = Seen(self._directory / "seen.txt")

        def agreed() -> Books | None:
            books = Books.of(produced, seen.follow(), with_bad=False)
            pending = int(daemon.status()["buffer"]["pending_samples"])
            assert books.total("doubled") == books.total("strange") == 0, books
            return books if books.total("elsewhere") == pending < _BATCH_SIZE else None

        books: Books = wait_for(agreed, "the books to agree")
        return books


def _count(daemon: Daemon, name: str, **labels: str) -> int:
    try:
        return int(daemon.metric(name, **labels))
    except AssertionError:  # no such series yet
        return 0


def fairness(directory: Path, offer: Offer) -> FairnessFigures:
    """See the module."""
    return Fairness(directory, offer).run()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="chaos-") as place:
        print(fairness(Path(place), Offer(int(sys.argv[1]))))
