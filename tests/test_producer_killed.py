"""A simulation in a process of its own, killed with -9 again and again, with and without files.

INSITU_PRODUCER_KILLS=50 is the long run; a few kills are enough for every day.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from insitu.wire.messages import Ack, Message
from peer import Peer, Stored, wait_until

KILLS = int(os.environ.get("INSITU_PRODUCER_KILLS", "6"))

#: pushes row after row, from its last cursor on, until it is killed or has pushed them all
SIMULATION = """
import sys
import numpy as np
from insitu_producers import Producer
endpoint, directory = sys.argv[1:3]
rows_in_all, seed = int(sys.argv[3]), int(sys.argv[4])
random = np.random.default_rng(seed)
schema = {"n": ("int64", ()), "x": ("float32", (16,))}
with Producer(endpoint, stream="s", producer_id="p", schema=schema, linger_seconds=60,
              window_directory=directory or None, window_bytes=1 << 18, resumes=True) as producer:
    producer.wait_connected(30)
    row = producer.last_cursor or 0
    print(row, producer.stats().recovered_rows, flush=True)
    while row < rows_in_all:
        end = min(row + int(random.integers(1, 200)), rows_in_all)
        values = np.arange(row, end)
        x = np.repeat(values[:, None], 16, 1).astype(np.float32)
        producer.push({"n": values, "x": x}, task=str(row // 1000), cursor=end, sample_ids=values)
        row = end
"""


def simulation(peer: Peer, directory: Path | str, rows: int, seed: int) -> subprocess.Popen[str]:
    words = [peer.endpoint, str(directory), str(rows), str(seed)]
    return subprocess.Popen(
        [sys.executable, "-c", SIMULATION, *words], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.timeout(300 + 10 * KILLS)
def test_killed_producers_lose_and_double_nothing(tmp_path: Path) -> None:
    random = np.random.default_rng(KILLS)
    chance = iter(np.random.default_rng(1).random(10**7))
    store: dict[str, Stored] = {}

    def lose(message: Message) -> bool:
        return isinstance(message, Ack) and next(chance) < 0.3

    pause = threading.Event()
    recovered = 0
    with Peer("tcp://127.0.0.1:*", store, lose=lose, max_fragment_bytes=5000) as peer:
        for kill in range(KILLS):
            taken = store["p"].next_row if store else 0
            process = simulation(peer, tmp_path, 10**9, kill)
            assert process.stdout is not None
            if random.random() < 0.8:  # the others die while they start, or greet
                recovered += int(process.stdout.readline().split()[1])
                wait_until(lambda taken=taken: bool(store) and store["p"].next_row > taken, 60.0)  # type: ignore[misc]
            pause.wait(random.uniform(0, 0.3))  # any moment
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stdout.close()
        rows = store["p"].next_row + 20_000
        last = simulation(peer, tmp_path, rows, KILLS)
        output, _ = last.communicate(timeout=200)
        assert last.returncode == 0
        wait_until(lambda: store["p"].bye is not None)
    recovered += int(output.split()[1])
    assert store["p"].rows("n") == list(range(rows)), "lost or doubled"
    assert store["p"].lost_rows == store["p"].gap_rows == 0
    assert recovered > 0, "every kill met an empty window"
    assert list(tmp_path.iterdir()) == []
    print(f"{KILLS} kills, {rows} rows, {recovered} of them recovered from the window")


@pytest.mark.timeout(300 + 10 * KILLS)
def test_a_restarted_simulation_goes_on_where_the_service_stands() -> None:
    """Without files what was not acknowledged dies with the process, and is simulated again.

    What was acknowledged is made again, too, where it is behind the last cursor: batches of at most
    10 rows are nearly all parts of pushes, so nearly every kill hits a push that has come in part.
    """
    random = np.random.default_rng(KILLS)
    store: dict[str, Stored] = {}
    pause = threading.Event()
    with Peer("tcp://127.0.0.1:*", store, max_batch_bytes=10 * 80) as peer:
        for kill in range(KILLS):
            process = simulation(peer, "", 10**9, kill)
            assert process.stdout is not None
            process.stdout.readline()
            stored = peer.epochs[-1]
            wait_until(lambda stored=stored: len(stored.batches) > 100, 60.0)  # type: ignore[misc]
            pause.wait(random.uniform(0, 0.1))  # any moment
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stdout.close()
        rows = sum(len(stored.rows("n")) for stored in peer.epochs) + 20_000
        last = simulation(peer, "", rows, KILLS)
        last.communicate(timeout=200)
    assert last.returncode == 0
    assert len(peer.epochs) == KILLS + 1
    arrived = [row for stored in peer.epochs for row in stored.rows("n")]
    assert arrived == list(range(rows)), "lost or doubled"
    assert all(stored.gap_rows == stored.lost_rows == 0 for stored in peer.epochs)
    assert any(stored.left_out_rows for stored in peer.epochs), "no push had come in part"
