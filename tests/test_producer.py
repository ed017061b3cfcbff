"""The client against a real peer over real sockets: what arrives, what is told, what survives."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest
import torch

from insitu.errors import ProducerError
from insitu.schema import Schema
from insitu.wire.messages import Ack, Data, Refused, Welcome
from insitu.wire.rows import unpack_rows
from insitu_producers import Producer, ProducerStats, WaitTimeoutError
from peer import Peer, Stored, wait_until

ANY = "tcp://127.0.0.1:*"
NOBODY = "tcp://127.0.0.1:9"


def producer(endpoint: str, **how: Any) -> Producer:
    how = {"stream": "s", "producer_id": "p", "linger_seconds": 30.0} | how
    return Producer(endpoint, **how)


def sample(first: int, rows: int) -> dict[str, Any]:
    return {"n": np.arange(first, first + rows), "x": np.full((rows, 3), first, np.float32)}


def balanced(stats: ProducerStats) -> bool:
    return stats.pushed_rows == (
        stats.acknowledged_rows + stats.quarantined_rows + stats.dropped_rows_in_all
        + stats.pending_rows
    )  # fmt: skip


# -- what arrives -----------------------------------------------------------------------------


def test_everything_pushed_arrives_in_order_with_what_was_said_of_it() -> None:
    with Peer(ANY) as peer:
        with producer(peer.endpoint, schema={"n": ("int64", ())}) as p:
            p.wait_connected(30)
            p.push({"n": np.arange(4)}, task="warmup", cursor=3, sample_ids=[9, 8, 7, 6])
            p.flush(30)
            p.push({"n": np.arange(2)}, evaluate=True)
            p.push({"n": np.arange(2)}, replay=False)
            p.push_one({"n": 5}, task="end", sample_id=77)
            p.flush(30)
            stats = p.stats()
        stored = peer.store["p"]
        assert stored.rows("n") == [0, 1, 2, 3, 0, 1, 0, 1, 5]
        heads = [data for data, _ in stored.batches]
        assert [(d.task, d.flags, d.cursor) for d in heads] == [
            ("warmup", 0, 3), ("", 1, None), ("", 2, None), ("end", 0, None),
        ]  # fmt: skip
        assert heads[0].sample_ids == np.array([9, 8, 7, 6], "<i8").tobytes()
        assert heads[3].sample_ids == np.array([77], "<i8").tobytes()
        assert abs(time.time_ns() - heads[0].produced_at_ns) < 60e9
        assert (stats.pushed_rows, stats.acknowledged_rows, stats.pending_rows) == (9, 9, 0)
        wait_until(lambda: stored.bye is not None)
        assert stored.bye is not None
        assert (stored.bye.pushed_rows, stored.bye.dropped_rows) == (9, 0)
        assert p.stats().state == "closed"


def test_the_caller_may_reuse_its_arrays_at_once() -> None:
    with Peer(ANY) as peer, producer(peer.endpoint) as p:
        x = np.empty((4, 50_000), np.float32)  # larger than what is copied for sending
        for step in range(40):
            x[:] = step
            p.push({"x": x})
            x[:] = -1
        p.flush(30)
        found = np.concatenate(
            [unpack_rows(p._line.window.schema, b)["x"][:, 0] for _, b in peer.store["p"].batches]  # type: ignore[union-attr]
        )
        assert found.tolist() == np.repeat(np.arange(40.0), 4).tolist()


def test_rows_larger_than_a_fragment() -> None:
    with Peer(ANY, max_fragment_bytes=10_000) as peer:
        x = np.random.default_rng(0).normal(size=(5, 9_000))
        with producer(peer.endpoint) as p:
            p.push({"x": x})
        assert np.allclose(peer.store["p"].rows("x"), x)


def test_a_push_larger_than_the_window_goes_in_parts() -> None:
    with Peer(ANY) as peer, producer(peer.endpoint, window_bytes=1 << 16) as p:
        assert p.push({"n": np.arange(50_000)}, cursor=7)
        p.flush(30)
        assert peer.store["p"].rows("n") == list(range(50_000))
        assert peer.store["p"].cursor == 7


def test_two_producers_of_one_stream() -> None:
    with Peer(ANY) as peer:
        with producer(peer.endpoint) as p, producer(peer.endpoint, producer_id="q") as q:
            for step in range(20):
                p.push({"n": [step]})
                q.push({"n": [100 + step]})
        assert peer.store["p"].rows("n") == list(range(20))
        assert peer.store["q"].rows("n") == list(range(100, 120))


def test_several_threads_may_push() -> None:
    with Peer(ANY) as peer, producer(peer.endpoint) as p:

        def work(first: int) -> None:
            for step in range(200):
                p.push({"n": [first + step]})

        threads = [threading.Thread(target=work, args=(1000 * i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        p.flush(30)
        found = peer.store["p"].rows("n")
        for i in range(4):
            own = [n for n in found if n // 1000 == i]
            assert own == list(range(1000 * i, 1000 * i + 200))


# -- a bad network and a bad service -----------------------------------------------------------


def test_a_service_that_comes_late_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "insitu.producer")
    with Peer(ANY) as peer:
        endpoint = peer.endpoint
    with producer(endpoint) as p:
        for step in range(100):
            p.push({"n": [step]})
        assert p.stats().pending_rows == 100
        wait_until(lambda: any("no service" in r.message for r in caplog.records))
        with Peer(endpoint, heartbeat_seconds=10.0) as peer:  # else a pause looks like a loss
            p.flush(30)
            assert peer.store["p"].rows("n") == list(range(100))
    assert [r.levelname for r in caplog.records] == ["WARNING", "INFO"]


def test_a_service_that_is_killed_and_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "insitu.producer")
    store: dict[str, Stored] = {}
    pushed = 0
    peer = Peer(ANY, store, heartbeat_seconds=1.0)
    with producer(peer.endpoint) as p:
        for kill in range(4):
            for _ in range(50):
                p.push(sample(pushed, 7), cursor=pushed)
                pushed += 7
            wait_until(lambda least=50 * kill: store.get("p") and store["p"].next_row > least)  # type: ignore[misc]
            peer.close()
            for _ in range(20):
                p.push(sample(pushed, 7), cursor=pushed)
                pushed += 7
            peer = Peer(peer.endpoint, store, heartbeat_seconds=1.0)
        p.flush(30)
        stats = p.stats()
        assert stats.reconnects >= 1
        assert balanced(stats)
    peer.close()
    assert store["p"].rows("n") == list(range(pushed))
    assert store["p"].cursor == pushed - 7
    assert len(caplog.records) <= 2 * 4 + 1


def test_a_service_that_forgot_acknowledged_rows_counts_them_as_lost() -> None:
    store: dict[str, Stored] = {}
    peer = Peer(ANY, store)
    with producer(peer.endpoint) as p:
        p.push({"n": np.arange(10)})
        p.flush(30)
        peer.close()
        store["p"].next_seq, store["p"].next_row = 1, 0  # as from an older checkpoint
        store["p"].batches.clear()
        with Peer(peer.endpoint, store):
            p.push({"n": np.arange(10, 15)})
            p.flush(30)
        assert store["p"].rows("n") == list(range(10, 15))
        assert store["p"].lost_rows == 10


def test_lost_acks_cost_nothing() -> None:
    counter = iter(range(10**9))
    with Peer(ANY, lose=lambda m: isinstance(m, Ack) and next(counter) % 3 > 0) as peer:
        with producer(peer.endpoint) as p:
            for step in range(200):
                p.push({"n": [step]})
            p.flush(30)
        assert peer.store["p"].rows("n") == list(range(200))


def test_corrupt_payloads_are_sent_again() -> None:
    chance = iter(np.random.default_rng(0).random(10**5))
    with Peer(ANY, corrupt=lambda data: next(chance) < 0.25, max_fragment_bytes=100) as peer:
        with producer(peer.endpoint) as p:
            for step in range(300):
                p.push({"n": [step]}, task=str(step // 10))
            p.flush(30)
            assert p.stats().resent_batches > 0
        assert peer.store["p"].rows("n") == list(range(300))


def test_a_service_without_room_is_asked_again() -> None:
    refusals = iter([True, True, True])
    with Peer(ANY, full=lambda data: next(refusals, False)) as peer:
        with producer(peer.endpoint) as p:
            p.push({"n": np.arange(10)})
            p.flush(30)
        assert peer.store["p"].rows("n") == list(range(10))


def test_quarantined_batches_are_told_and_do_not_block() -> None:
    with Peer(ANY, quarantine=lambda data: data.task == "bad") as peer:
        with producer(peer.endpoint) as p:
            for task in ("good", "bad", "good"):
                p.push({"n": np.arange(5)}, task=task)
            p.flush(30)
            stats = p.stats()
        assert (stats.acknowledged_rows, stats.quarantined_rows) == (10, 5)
        assert "NaN in field 'x'" in stats.last_error
        assert balanced(stats)
        assert len(peer.store["p"].batches) == 2


def test_garbage_from_the_service_is_counted_and_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Peer(ANY) as peer, producer(peer.endpoint) as p:
        p.push({"n": [1]})
        p.flush(30)
        peer.raw = [b"", b"\xc1", b"\x93\x05\x01", bytes(1000), b"\x93\x08\x01"]
        wait_until(lambda: p.stats().garbage_messages == 5)
        p.push({"n": [2]})
        p.flush(30)
        assert peer.store["p"].rows("n") == [1, 2]
    assert sum("no message" in record.message for record in caplog.records) == 1


def test_without_credit_nothing_is_sent_and_the_need_is_told() -> None:
    with Peer(ANY, credit_bytes=0) as peer, producer(peer.endpoint) as p:
        p.push({"n": np.arange(10)})
        wait_until(lambda: any(ping.needed_bytes == 160 for ping in peer.pings))
        assert "Data" not in peer.messages
        peer.credit_bytes = 1 << 20
        p.flush(30)
        assert peer.store["p"].rows("n") == list(range(10))


# -- the window is full --------------------------------------------------------------------------

SMALL: dict[str, Any] = {"schema": {"n": ("int64", ())}, "window_bytes": 64 * 16}


def test_block_waits_for_room() -> None:
    with Peer(ANY, credit_bytes=0) as peer, producer(peer.endpoint, **SMALL) as p:
        p.wait_connected(30)

        def give_room_when_it_blocks() -> None:
            wait_until(lambda: any(ping.blocked_seconds == 0 for ping in peer.pings))
            peer.credit_bytes = 1 << 20

        helper = threading.Thread(target=give_room_when_it_blocks)
        helper.start()
        for step in range(100):
            assert p.push({"n": [step]})
        helper.join()
        p.flush(30)
        assert p.stats().blocked_seconds > 0
        assert peer.store["p"].rows("n") == list(range(100))


def test_block_drops_after_its_timeout_and_then_at_once() -> None:
    with producer(NOBODY, block_timeout_seconds=0.2, linger_seconds=0, **SMALL) as p:
        while p.push({"n": [0]}):
            pass
        started = time.monotonic()
        assert not any(p.push({"n": [0]}) for _ in range(50))
        assert time.monotonic() - started < 0.2 * 40, "the timeout is paid once, not 50 times"
        stats = p.stats()
        assert stats.dropped_rows == {"timeout": 51}
        assert stats.blocked_seconds >= 0.2
        assert balanced(stats)
    assert p.stats().dropped_rows["closed"] == 64


@pytest.mark.parametrize(
    ("when_full", "reasons"),
    [("drop_newest", {"newest"}), ("drop_oldest", {"oldest"}), ("thin", {"thinned"})],
)
def test_dropping_policies_never_wait_and_balance(when_full: str, reasons: set[str]) -> None:
    with Peer(ANY) as peer:
        endpoint = peer.endpoint
    with producer(endpoint, when_full=when_full, **SMALL) as p:
        for step in range(1000):
            p.push({"n": [step]})
        stats = p.stats()
        assert set(stats.dropped_rows) == reasons
        assert stats.blocked_seconds == 0
        assert balanced(stats)
        with Peer(endpoint) as peer:
            p.flush(30)
            p.push({"n": [1000]})
            p.close()
            stored = peer.store["p"]
            wait_until(lambda: stored.bye is not None)
        assert stored.bye is not None
        found = stored.rows("n")
        dropped = p.stats().dropped_rows_in_all
        assert len(found) + dropped == 1001 == stored.bye.pushed_rows
        assert stored.bye.dropped_rows == dropped
        assert found == sorted(set(found))
        assert stored.gap_rows + (1001 - stored.next_row) == dropped
        if when_full == "drop_newest":
            assert found[:64] == list(range(64))
        if when_full == "drop_oldest":
            assert found[-2:] == [999, 1000]


# -- refusals ------------------------------------------------------------------------------------


def test_a_refusal_is_raised_by_the_next_push() -> None:
    refusal = Refused("stream", "no stream 's'; allowed: plasma", False)
    with Peer(ANY, refusal=refusal) as peer, producer(peer.endpoint, linger_seconds=0) as p:
        p.push({"n": [1]})
        wait_until(lambda: p.stats().state == "refused")
        with pytest.raises(ProducerError, match="no stream 's'; allowed: plasma"):
            p.push({"n": [2]})
        with pytest.raises(ProducerError, match="no stream"):
            p.flush(30)


def test_a_refusal_for_now_is_tried_again() -> None:
    refusal = Refused("draining", "later", True)
    with Peer(ANY, refusal=refusal) as peer, producer(peer.endpoint) as p:
        p.push({"n": [1]})
        wait_until(lambda: "later" in p.stats().last_error)
        peer.refusal = None
        p.flush(30)
        assert peer.store["p"].rows("n") == [1]


def test_a_second_producer_of_the_same_id_takes_over_and_gets_the_cursor() -> None:
    with Peer(ANY) as peer:
        with producer(peer.endpoint, linger_seconds=0) as first:
            first.push({"n": [1]}, cursor=41)
            first.flush(30)
            with producer(peer.endpoint, schema={"n": ("int64", ())}) as second:
                second.wait_connected(30)
                assert second.last_cursor == 41
                wait_until(lambda: first.stats().state == "fenced")
                with pytest.raises(ProducerError, match="a newer producer took over"):
                    first.push({"n": [2]})
                second.push({"n": [3]})
                second.flush(30)
        assert peer.store["p"].rows("n") == [3]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"n": np.zeros(0, np.int64), "x": np.zeros((0, 3), np.float32)}, "0 rows"),
        (
            {"n": np.zeros(2, np.int64), "x": np.zeros((3, 3), np.float32)},
            "'x' has 3 rows, 'n' has",
        ),
        ({"n": np.zeros(2, np.int32), "x": np.zeros((2, 3), np.float32)}, "'n' is int32"),
        ({"n": np.zeros(2, np.int64), "x": np.zeros((2, 4), np.float32)}, r"'x' is float32\[4\]"),
        ({"n": np.zeros(2, np.int64)}, "without x"),
        ({"n": [1], "x": [[1, 2, 3]], "z": [1]}, "unknown 'z'"),
        ({"n": 1, "x": np.zeros(3, np.float32)}, "push_one"),
        ({"n": ["a"], "x": [[1, 2, 3]]}, "'n' is a Python value"),
        ({"n": [1.5], "x": [[1, 2, 3]]}, "'n' is a Python value"),
        ({"n": [2**80], "x": [[1, 2, 3]]}, "'n' is a Python value"),
        ({"n": np.array([1], object), "x": [[1, 2, 3]]}, "'n' has dtype 'object'"),
        ({"n": object(), "x": [[1, 2, 3]]}, "'n' is a object"),
        ({"n": np.array([1], "M8[s]"), "x": [[1, 2, 3]]}, "datetime64"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name(arrays: dict[str, Any], words: str) -> None:
    with producer(NOBODY, linger_seconds=0) as p:
        p.push(sample(0, 1))
        with pytest.raises(ProducerError, match=words):
            p.push(arrays)
        assert p.stats().pushed_rows == 1


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"task": "t" * 129}, "task is"),
        ({"task": 3}, "task is 3"),
        ({"cursor": 2**70}, "cursor is"),
        ({"cursor": [1]}, "cursor is"),
        ({"sample_ids": [1, 2]}, "sample_ids"),
        ({"sample_ids": [1.5]}, "sample_ids"),
    ],
)
def test_words_that_do_not_fit_are_refused_by_name(how: dict[str, Any], words: str) -> None:
    with producer(NOBODY, linger_seconds=0) as p, pytest.raises(ProducerError, match=words):
        p.push({"n": [1]}, **how)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"when_full": "explode"}, "when_full is 'explode'"),
        ({"producer_id": ""}, "producer_id is ''"),
        ({"stream": "s" * 200}, "stream is"),
        ({"schema": {"n": ("int63", ())}}, "int63"),
        ({"schema": {"n": ("int64", (1 << 20,))}, "window_bytes": 1 << 20}, "window_bytes is"),
    ],
)
def test_options_that_do_not_fit_are_refused_by_name(how: dict[str, Any], words: str) -> None:
    with pytest.raises(ProducerError, match=words):
        producer(NOBODY, **how)


def test_an_endpoint_that_is_none_is_refused() -> None:
    with pytest.raises(ProducerError, match="endpoint 'here' cannot be used"):
        producer("here", schema={"n": ("int64", ())})


# -- waiting and ending ----------------------------------------------------------------------------


def test_flush_and_wait_connected_time_out_with_the_count() -> None:
    with producer(NOBODY, linger_seconds=0) as p:
        with pytest.raises(ProducerError, match="before the schema is known"):
            p.wait_connected(0.01)
        p.flush(0.01)
        p.push({"n": [1, 2]})
        with pytest.raises(WaitTimeoutError, match="2 rows are pending"):
            p.flush(0.05)
        with pytest.raises(TimeoutError, match="no service at"):
            p.wait_connected(0.05)


@pytest.mark.parametrize("level", ["durable", "trained"])
def test_flush_waits_for_a_level_without_waiting_for_heartbeats(level: str) -> None:
    far = [0, 0]
    place = ("durable", "trained").index(level)
    with (
        Peer(
            ANY, heartbeat_seconds=30.0, positions=lambda n: (min(n, far[0]), min(n, far[1]))
        ) as peer,
        producer(peer.endpoint) as p,
    ):
        p.push({"n": np.arange(3)}, task="a")
        p.push({"n": np.arange(4)}, task="b")
        p.flush(30)
        stats = p.stats()
        assert (stats.accepted_row, stats.durable_row, stats.trained_row) == (7, 0, 0)
        with pytest.raises(WaitTimeoutError, match=f"flush {level}.* 0 {level}|of 2 batches"):
            p.flush(0.1, level=level)
        far[place] = 1
        wait_until(lambda: flushed(p, level) or getattr(p.stats(), f"{level}_seq") == 1)
        assert getattr(p.stats(), f"{level}_row") == 3
        far[place] = 2
        p.flush(30, level=level)
        assert getattr(p.stats(), f"{level}_row") == 7
        assert getattr(p.stats(), f"{level}_seq") == 2
        with pytest.raises(ProducerError, match="level is 'soon'"):
            p.flush(level="soon")


def flushed(p: Producer, level: str) -> bool:
    try:
        p.flush(0.05, level=level)
    except WaitTimeoutError:
        return False
    return True


def test_a_durable_stream_is_closed_when_the_last_batch_is_on_the_disk() -> None:
    asked: list[int] = []

    def positions(accepted: int) -> tuple[int, int]:
        asked.append(accepted)
        return (accepted if len(asked) > 20 else 0), 0

    with Peer(ANY, ack_level="durable", heartbeat_seconds=30.0, positions=positions) as peer:
        with producer(peer.endpoint) as p:
            p.push({"n": np.arange(3)})
            p.flush(30)
            assert p.stats().pending_rows == 3
        assert p.stats().acknowledged_rows == 3
        assert p.stats().dropped_rows == {}


def test_close_never_hangs_and_a_closed_producer_says_so() -> None:
    p = producer(NOBODY, linger_seconds=0.2)
    p.push({"n": [1]})
    started = time.monotonic()
    p.close()
    p.close()
    assert time.monotonic() - started < 20
    with pytest.raises(ProducerError, match="is closed"):
        p.push({"n": [1]})
    assert p.stats().dropped_rows == {"closed": 1}
    unused = producer(NOBODY)
    unused.close()
    assert unused.stats().pushed_rows == 0


def test_no_threads_and_no_descriptors_are_left() -> None:
    before = threading.active_count()
    with Peer(ANY) as peer:
        for _ in range(5):
            with producer(peer.endpoint) as p:
                p.push({"n": [1]})
    assert threading.active_count() <= before + 1  # pyzmq's own collector of sent frames


def test_the_client_needs_neither_torch_nor_pydantic() -> None:
    code = (
        "import sys, insitu_producers; "
        "print([m for m in ('torch', 'pydantic', 'yaml', 'xxhash') if m in sys.modules])"
    )
    blocked = "import sys; sys.modules['xxhash'] = None; " + code
    for script, loaded in ((code, ("[]", "['xxhash']")), (blocked, ("['xxhash']",))):
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() in loaded


def test_a_producer_of_before_a_fork_says_so() -> None:
    script = (
        "import os, sys\n"
        "from insitu.errors import ProducerError\n"
        "from insitu_producers import Producer\n"
        "p = Producer('tcp://127.0.0.1:9', stream='s', producer_id='p', linger_seconds=0)\n"
        "p.push({'n': [1]})\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    try:\n"
        "        p.push({'n': [1]})\n"
        "    except ProducerError as error:\n"
        "        p.close()\n"
        "        os._exit(7 if 'spawn' in str(error) else 8)\n"
        "    os._exit(9)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7\n"
        "p.close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stderr


def test_random_kills_and_random_pushes_lose_and_double_nothing() -> None:
    """The whole client under what chance does to its service, with real sockets."""
    random = np.random.default_rng(5)
    store: dict[str, Stored] = {}
    drops = iter(random.random(10**6))
    how: dict[str, Any] = {
        "lose": lambda m: next(drops) < 0.05,
        "corrupt": lambda d: next(drops) < 0.05,
        "max_fragment_bytes": 3000,
        "heartbeat_seconds": 0.05,
    }
    peer = Peer(ANY, store, **how)
    pushed = 0
    with producer(peer.endpoint, window_bytes=1 << 18) as p:
        for _ in range(12):
            for _ in range(int(random.integers(1, 80))):
                rows = int(random.integers(1, 60))
                assert p.push(sample(pushed, rows), task=str(pushed // 5000))
                pushed += rows
            peer.close()
            peer = Peer(peer.endpoint, store, **how)
        p.flush(30)
        assert balanced(p.stats())
    peer.close()
    assert store["p"].rows("n") == list(range(pushed))


def test_a_connection_that_fell_silent_is_replaced() -> None:
    """Silence: the client makes a new connection and is not stuck."""
    with Peer(ANY, heartbeat_seconds=0.05) as peer, producer(peer.endpoint) as p:
        p.push({"n": [1]})
        p.flush(30)
        peer.lose = lambda message: not isinstance(message, Welcome)
        p.push({"n": [2]})
        wait_until(lambda: p.stats().reconnects >= 1)
        peer.lose = lambda message: False
        p.flush(30)
        assert peer.store["p"].rows("n") == [1, 2]


def test_schema_objects_and_torch_tensors() -> None:
    schema = Schema.of({"b": ("bfloat16", (2,))})
    with Peer(ANY) as peer, producer(peer.endpoint, schema=schema) as p:
        p.push({"b": torch.tensor([[1.0, 2.0]], dtype=torch.bfloat16)})
        p.flush(30)
        assert peer.store["p"].rows("b") == [[0x3F80, 0x4000]]
        heads: list[Data] = [data for data, _ in peer.store["p"].batches]
        assert len(heads) == 1
