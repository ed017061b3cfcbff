"""The harness itself: it must see what it is there to see."""

from __future__ import annotations

import random
import socket
import threading
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import pytest

from chaos.__main__ import main, parts
from chaos.books import Books
from chaos.ledger import Ledger, produced_rows
from chaos.network_faults import NetworkFault, Weather, schedule
from chaos.power_loss import Shadow
from chaos.rows import ROWS_OF_ONE, ids_of, is_bad, rows_at, rows_of
from chaos.seen import Seen
from chaos.service_books import ServiceBooks
from chaos.soak_figures import Measure, SoakFigures
from chaos.tcp_proxy import TcpProxy
from chaos.verdicts import problems


def seen(path: Path, *lines: str) -> Seen:
    path.write_text("".join(line + "\n" for line in lines))
    return Seen(path).follow()


def test_rows_follow_from_their_ids() -> None:
    whole, again = rows_of(3, 10, 14), rows_at(ids_of(3, 10, 14))
    assert all(np.array_equal(whole[name], again[name]) for name in ("x", "y"))
    assert not np.array_equal(rows_of(2, 10, 14)["x"], whole["x"])


@pytest.mark.parametrize("killed_at_its_start", [[], ["start"]])
def test_a_life_without_a_checkpoint_takes_its_steps_with_it(
    tmp_path: Path, killed_at_its_start: list[str]
) -> None:
    lines = ["start", "1 10 11", "2 12 13", "3 14 15", *killed_at_its_start]
    again = ["start", "resume 1", "2 12 13", "3 16 17"]
    found = seen(tmp_path / "seen", *lines, *again)
    assert found.order.tolist() == [10, 11, 12, 13, 16, 17]
    lives = 2 + len(killed_at_its_start)
    assert (found.lives, found.repeated, found.changed) == (lives, 1, 1)
    with (tmp_path / "seen").open("a") as file:
        file.write("4 18 19\n5 2")  # the last line is not whole yet
    assert found.follow().order.tolist() == [10, 11, 12, 13, 16, 17, 18, 19]


def test_books_find_lost_doubled_and_strange_rows(tmp_path: Path) -> None:
    one = ROWS_OF_ONE
    ids = " ".join(map(str, [0, 1, 1, 3, one, one + 7]))
    books = Books.of({0: 5, 1: 2}, seen(tmp_path / "seen", "start", f"1 {ids}"))
    assert (books.producers[0].elsewhere, books.producers[0].doubled) == (2, 1)
    assert (books.producers[1].elsewhere, books.producers[1].strange) == (1, 1)
    bad = next(row for row in range(1000) if is_bad(row))
    whole = " ".join(map(str, range(bad + 1)))
    books = Books.of({0: bad + 2}, seen(tmp_path / "seen", "start", f"1 {whole}"))
    assert (books.total("quarantined"), books.total("strange")) == (1, 1)


def test_a_ledger_goes_on_where_the_process_does(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    ledger.pushing(0, 3)
    ledger.pushing(3, 9)
    ledger.going_on(4)
    assert produced_rows(tmp_path / "ledger") == 4
    ledger.pushing(4, 12)
    assert produced_rows(tmp_path / "ledger") == 12
    ledger.going_on(13)
    ledger.close()
    with pytest.raises(AssertionError, match="goes on at row 13 after 12"):
        produced_rows(tmp_path / "ledger")


def test_a_schedule_follows_from_its_seed() -> None:
    def first(seed: int) -> list[Weather]:
        return [weather for weather, _ in zip(schedule(seed), range(50), strict=False)]

    assert first(4) == first(4) != first(5)
    assert {weather.fault for weather in first(4)} == set(NetworkFault)


class Echo:
    """Sends back what comes, and remembers it by connection."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.got: list[bytearray] = []
        self.ended = threading.Semaphore(0)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            line, _ = self._listener.accept()
            threading.Thread(target=self._serve, args=(line,), daemon=True).start()

    def _serve(self, line: socket.socket) -> None:
        got = bytearray()
        self.got.append(got)
        with line:
            try:
                while data := line.recv(4096):
                    got += data
                    line.sendall(data)
            except OSError:
                pass
        self.ended.release()


def connected(proxy: TcpProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=20)


def test_in_calm_weather_all_bytes_go_through_in_order() -> None:
    data = random.Random(1).randbytes(300_000)
    weather = repeat(Weather(NetworkFault.CALM, 60.0))
    with TcpProxy(Echo().port, weather) as proxy, connected(proxy) as line:
        threading.Thread(target=line.sendall, args=(data,), daemon=True).start()
        assert received(line, len(data)) == data


def test_delay_and_throttle_change_no_byte() -> None:
    data = random.Random(1).randbytes(20_000)
    storm = [
        Weather(NetworkFault.DELAY, 0.2, 0.1),
        Weather(NetworkFault.THROTTLE, 0.2, 50_000.0),
        Weather(NetworkFault.HALF_OPEN, 0.1),
    ]
    weather = chain(storm * 3, repeat(Weather(NetworkFault.CALM, 60.0)))
    with TcpProxy(Echo().port, weather) as proxy, connected(proxy) as line:
        line.sendall(data)
        assert received(line, len(data)) == data


def test_a_cut_ends_a_connection_at_both_ends() -> None:
    weather = chain(
        [Weather(NetworkFault.CALM, 0.2), Weather(NetworkFault.CUT, 0.0)],
        repeat(Weather(NetworkFault.CALM, 60.0)),
    )
    echo = Echo()
    with TcpProxy(echo.port, weather) as proxy:
        with connected(proxy) as line:
            assert ended(line)
        assert echo.ended.acquire(timeout=20)
        with connected(proxy) as line:
            line.sendall(b"again")
            assert received(line, 5) == b"again"
        assert proxy.counts["connections"] == 2


def test_after_a_reorder_the_old_bytes_arrive_behind_the_new_connection() -> None:
    weather = chain(
        [
            Weather(NetworkFault.DELAY, 0.3, 30.0),  # the old bytes are still under way
            Weather(NetworkFault.REORDER, 0.0, 0.5),
        ],
        repeat(Weather(NetworkFault.CALM, 60.0)),
    )
    echo = Echo()
    with TcpProxy(echo.port, weather) as proxy:
        with connected(proxy) as line:
            line.sendall(b"old")
            assert ended(line)
        with connected(proxy) as line:
            line.sendall(b"new")
            assert received(line, 3) == b"new"
            assert echo.got == [b"", b"new"]
            assert echo.ended.acquire(timeout=20)  # the old one, once its bytes have arrived
            assert echo.got == [b"old", b"new"]


def received(line: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size and (data := line.recv(size - len(got))):
        got += data
    return got


def ended(line: socket.socket) -> bool:
    try:
        return line.recv(1) == b""
    except ConnectionResetError:
        return True


def synced_by(shadow: Path, path: Path) -> None:
    """What the shim keeps when a file is synced."""
    (shadow / f"bytes-{path.stat().st_ino}").write_bytes(path.read_bytes())


@pytest.mark.parametrize("seed", range(20))
def test_power_loss_keeps_what_was_synced_and_tears_the_rest(tmp_path: Path, seed: int) -> None:
    root, page = tmp_path / "log", b"%d" * 2048
    root.mkdir()
    (root / "old").write_bytes(b"a" * 8192)
    shadow = Shadow(tmp_path / "shadow", [root])
    shadow.begin()
    with (root / "old").open("r+b") as file:
        file.write(page)  # not synced
        file.seek(8192)
        file.write(b"b" * 4096)
    synced_by(tmp_path / "shadow", root / "old")
    with (root / "old").open("r+b") as file:
        file.write(b"c" * 12_288)  # not synced
    (root / "new").write_bytes(b"d" * 4096)  # neither it nor its name is synced
    shadow.lose_power(random.Random(seed))
    left = (root / "old").read_bytes()
    assert len(left) == 12_288
    for start, before in ((0, page), (4096, b"a" * 4096), (8192, b"b" * 4096)):
        assert left[start : start + 4096] in (before, b"c" * 4096)
    assert not (root / "new").exists() or set((root / "new").read_bytes()) <= {0, ord("d")}


def test_power_loss_forgets_in_one_of_many_cases(tmp_path: Path) -> None:
    """All four outcomes come: a name kept or not, bytes kept or not."""
    outcomes = set()
    for seed in range(40):
        root = tmp_path / str(seed) / "log"
        root.mkdir(parents=True)
        (root / "old").write_bytes(b"a" * 4096)
        shadow = Shadow(tmp_path / str(seed) / "shadow", [root])
        shadow.begin()
        (root / "old").write_bytes(b"c" * 4096)
        (root / "new").write_bytes(b"d")
        forgotten = shadow.lose_power(random.Random(seed))
        assert forgotten in (0, 1, 4096, 4097)
        outcomes.add(((root / "new").exists(), (root / "old").read_bytes()[:1]))
    assert len(outcomes) == 4


def test_both_profiles_have_the_same_parts_and_none_that_does_not_exist() -> None:
    assert list(parts(long=False)) == list(parts(long=True)) == list(parts(long=True, scale=0.01))
    with pytest.raises(SystemExit, match="2"):
        main(["long", "decoder", "nobody"])


def soaked(rates: list[float], *, others: float = 0.0, grown: float = 0.0) -> SoakFigures:
    """A soak with a minute at each of these rates."""
    measures, trained = [Measure(120.0, 0.0, 1000, 9, 5, 0.0, 0.0)], 0.0
    for minute, rate in enumerate(rates, start=1):
        trained += 60.0 * rate
        at = 120.0 + 60.0 * minute
        memory = 1000 + int(grown * 1000) * (minute == len(rates))
        measures.append(Measure(at, trained, memory, 9, 5, 30.0 * minute, others * 60.0 * minute))
    return SoakFigures(measures, ServiceBooks(0, 0, 0, 0, 0, 0, 0))


def test_a_soak_is_judged_by_its_first_and_its_last_minute() -> None:
    steady = [100.0] * 29
    assert problems(soaked([*steady, 96.0])) == []
    assert problems(soaked([*steady, 94.0])) == ["throughput fell"]
    assert problems(soaked([*steady, 100.0], grown=0.021)) == ["memory grew"]
    assert problems(soaked([94.0, *steady])) == []


def test_a_soak_beside_others_says_nothing_of_throughput() -> None:
    figures = soaked([100.0] * 29 + [50.0], others=1.0)
    assert problems(figures) == ["others used the machine: its throughput is not known"]
    assert "100.0 %" not in str(figures).split("throughput", 1)[1].split(";")[0]
    assert figures.efficiency_share == pytest.approx(0.5)
