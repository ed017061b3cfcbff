"""A window in files survives its process: recovered, sent once, fenced, and clean at the end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from insitu.errors import OperatorError, ProducerError
from insitu.wire.capabilities import RESUMES, ROW_COUNTS
from insitu_producers import Producer
from insitu_producers.journal_file import JournalFile
from peer import Peer, Stored, wait_until

ANY = "tcp://127.0.0.1:*"
NOBODY = "tcp://127.0.0.1:9"
SCHEMA = {"n": ("int64", ()), "x": ("float32", (3,))}


def producer(endpoint: str, directory: Path, **how: Any) -> Producer:
    how = {"stream": "s", "producer_id": "p", "linger_seconds": 0.0, "window_bytes": 1 << 16} | how
    return Producer(endpoint, window_directory=directory, **how)


def step(number: int, rows: int = 1) -> dict[str, Any]:
    return {"n": np.full(rows, number), "x": np.full((rows, 3), number, np.float32)}


def test_what_was_not_taken_is_sent_by_the_next_process(tmp_path: Path) -> None:
    with producer(NOBODY, tmp_path) as p:
        for number in range(50):
            p.push(step(number), task=f"t{number // 20}", cursor=number, sample_ids=[7 * number])
        p.push(step(50), evaluate=True, cursor=50)
    assert p.stats().dropped_rows == {}
    with Peer(ANY) as peer:
        with producer(peer.endpoint, tmp_path, linger_seconds=30) as p:
            assert (p.last_cursor, p.stats().recovered_rows) == (50, 51)
            p.push(step(51), cursor=51)
            p.flush(30)
            stored = peer.store["p"]
            assert stored.rows("n") == list(range(52))
            assert np.array(stored.rows("x"))[:, 1].tolist() == list(range(52))
            heads = [data for data, _ in stored.batches]
            assert {data.task: data.rows for data in heads if data.task} == {
                "t0": 20,
                "t1": 20,
                "t2": 10,
            }
            ids = b"".join(data.sample_ids or b"" for data in heads)
            assert np.frombuffer(ids, "<i8").tolist() == [7 * number for number in range(50)]
            assert [data.flags for data in heads] == [0, 0, 0, 1, 0]
            books = p.stats()
            assert (books.pushed_rows, books.acknowledged_rows) == (52, 52)
        assert list(tmp_path.iterdir()) == [], "a window with nothing left leaves nothing"
        wait_until(lambda: stored.bye is not None)


@pytest.mark.parametrize("lacks", [frozenset(), frozenset({ROW_COUNTS, RESUMES})])
def test_what_was_taken_before_the_kill_is_not_sent_again(
    tmp_path: Path, lacks: frozenset[str]
) -> None:
    """The ack was on its way when the process died: the service's count decides.

    Of rows, or of batches where a service of before counts nothing else.
    """
    store: dict[str, Stored] = {}
    lost = ("Ack", "Pong")
    with Peer(ANY, store, lose=lambda m: type(m).__name__ in lost, lacks=lacks) as peer:
        p = producer(peer.endpoint, tmp_path)
        for number in range(30):
            p.push(step(number), task=str(number // 10), cursor=number)
        wait_until(lambda: bool(store) and store["p"].next_row == 30)
        assert p.stats().pending_rows == 30
        p.close()
        assert store["p"].bye is None, "the stream goes on"
    with (
        Peer(ANY, store, lacks=lacks) as peer,
        producer(peer.endpoint, tmp_path, linger_seconds=30) as p,
    ):
        p.wait_connected(30)
        assert p.last_cursor == 29
        p.push(step(30), cursor=30)
        p.flush(30)
        assert store["p"].rows("n") == list(range(31))
        assert (p.stats().resent_batches, p.stats().quarantined_rows) == (0, 0)
        assert p.stats().acknowledged_rows == 31


def test_a_window_has_one_holder_and_a_producer_of_another_epoch_is_refused(tmp_path: Path) -> None:
    with producer(NOBODY, tmp_path, epoch=5) as p:
        p.push(step(0))
        with pytest.raises(OperatorError, match=f"held by process {os.getpid()}"):
            producer(NOBODY, tmp_path)
        with producer(NOBODY, tmp_path, producer_id="q"):
            pass
    with pytest.raises(ProducerError, match=r"epoch is 6.*of epoch 5.*1 rows"):
        producer(NOBODY, tmp_path, epoch=6)
    with pytest.raises(ProducerError, match=r"another schema.*1 rows"):
        producer(NOBODY, tmp_path, schema={"other": ("int64", ())})
    with producer(NOBODY, tmp_path, epoch=5) as p:
        assert p.stats().recovered_rows == 1


def test_an_empty_window_gives_way_to_another_schema_and_epoch(tmp_path: Path) -> None:
    script = (
        "import os, sys; from insitu_producers import Producer\n"
        "Producer('tcp://127.0.0.1:9', stream='s', producer_id='p', epoch=3,\n"
        "         schema={'n': ('int64', ())}, window_directory=sys.argv[1])\n"
        "os._exit(0)\n"
    )
    for _ in range(2):
        subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, timeout=60)
        assert list(tmp_path.iterdir()), "it died without a word"
    with producer(NOBODY, tmp_path, epoch=9, schema={"m": ("int64", ())}) as p:
        p.push({"m": [1]})
        assert p.stats().pending_rows == 1


def test_the_journal_begins_anew_when_it_is_full(tmp_path: Path) -> None:
    rows, pushes = 400, 1000
    with Peer(ANY) as peer, producer(peer.endpoint, tmp_path, linger_seconds=30) as p:
        for number in range(pushes):
            p.push(step(number, rows), sample_ids=np.full(rows, number), cursor=number)
        p.flush(30)
        sizes = [f.stat().st_size for f in tmp_path.iterdir() if "journal" in f.name]
        assert len(sizes) == 2, "no second journal was begun"
        assert sum(sizes) < 8 << 20
        assert peer.store["p"].rows("n") == np.repeat(np.arange(pushes), rows).tolist()


def test_a_torn_record_is_a_push_that_did_not_happen(tmp_path: Path) -> None:
    paths = tmp_path / "a", tmp_path / "b"
    journal = JournalFile(*paths)
    assert journal.read() is None
    journal.begin(["state", 1])
    journal.begin(["state", 2])
    journal.write(["push", "x"], lambda: ["state", 3])
    journal.write(["push", "y" * 100], lambda: ["state", 3])
    journal.close()
    whole = paths[0].read_bytes()
    ends = [64 + 16, 64 + 32, 64 + 32 + 116]  # each 8 bytes of head, then msgpack
    for cut in range(ends[0], ends[-1] + 1):
        paths[0].write_bytes(whole[:cut] + bytes(len(whole) - cut))
        found = JournalFile(*paths).read()
        assert found is not None
        assert found[0] == ["state", 2]
        assert len(found) == sum(cut >= end for end in ends)
    paths[0].write_bytes(whole[:70] + bytes(len(whole) - 70))
    with pytest.raises(OperatorError, match="damaged"):
        JournalFile(*paths).read()
    paths[0].write_bytes(whole)
    assert JournalFile(*paths).read() == [["state", 2], ["push", "x"], ["push", "y" * 100]]
    paths[0].write_bytes(bytes(64) + whole[64:])  # killed before the header was written
    assert JournalFile(*paths).read() == [["state", 1]]


def test_no_room_for_the_window_is_told_at_the_beginning(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="no room for the window"):
        producer(NOBODY, tmp_path, window_bytes=1 << 60, schema=SCHEMA)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(OperatorError, match=r"window_directory .*file cannot be used"):
        producer(NOBODY, file)


def test_files_that_are_not_understood_are_refused_by_name(tmp_path: Path) -> None:
    with producer(NOBODY, tmp_path) as p:
        p.push(step(0))
    (rows,) = tmp_path.glob("*.rows")
    rows.write_bytes(b"short")
    with pytest.raises(OperatorError, match=r"\.rows"):
        producer(NOBODY, tmp_path)
