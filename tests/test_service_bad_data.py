"""Bad data against a real service: each batch is answered, counted and survived."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from bad_input import (
    SCHEMA,
    Hostile,
    assert_balanced,
    assert_lives,
    config,
    data,
    honest,
    log_says,
    payload_of,
    samples,
)
from daemon import Daemon, wait_for
from insitu.errors import ProducerError
from insitu.stream.log.disk import FileSystemDisk
from insitu.stream.log.record import Kind
from insitu.stream.log.walk import LogWalk
from insitu.wire.messages import Ack, Nack, NackCode
from insitu_producers import Producer


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One service for all of them; whatever a test does, it must be alive for the next."""
    directory = tmp_path_factory.mktemp("data")
    tasks = {"max_tasks": 4, "max_batch_bytes": 4096}
    with Daemon(directory, config(directory, stream=tasks)) as daemon:
        yield daemon.start()
        assert daemon.stop() == 0
        assert not log_says(daemon, "fault in insitu")


def quarantined(daemon: Daemon, reason: str) -> float:
    return daemon.metric("insitu_quarantined_samples_total", reason=reason)


def trained(daemon: Daemon) -> float:
    return daemon.metric("insitu_trained_samples_total", source="fresh")


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": np.zeros((2, 4), np.float64), "y": np.zeros(2, np.int64)}, "float64"),
        ({"x": np.zeros((2, 5), np.float32), "y": np.zeros(2, np.int64)}, "5"),
        ({"x": np.zeros((2, 4), np.float32)}, "y"),
        (
            {
                "x": np.zeros((2, 4), np.float32),
                "y": np.zeros(2, np.int64),
                "z": np.zeros(2, np.float32),
            },
            "z",
        ),
    ],
    ids=["dtype", "shape", "missing field", "extra field"],
)
def test_another_schema_is_refused_at_the_door(
    daemon: Daemon, arrays: dict[str, np.ndarray], said: str
) -> None:
    before = daemon.metric("insitu_refused_sessions_total", reason="schema")
    with honest(daemon, "stranger") as producer:
        producer.push(arrays)
        with pytest.raises(ProducerError, match="schema") as caught:
            producer.flush(timeout_seconds=20.0)
    assert said in str(caught.value)
    assert daemon.metric("insitu_refused_sessions_total", reason="schema") == before + 1
    assert_lives(daemon)


def test_arrays_that_do_not_fit_the_schema_raise_at_the_push(daemon: Daemon) -> None:
    with honest(daemon, "clumsy") as producer:
        producer.push(samples(2))
        with pytest.raises(ProducerError, match="x"):
            producer.push({"x": np.zeros((2, 5), np.float32), "y": np.zeros(2, np.int64)})
        with pytest.raises(ProducerError, match="y"):
            producer.push({"x": np.zeros((2, 4), np.float32), "y": np.zeros(3, np.int64)})
        producer.push(samples(2))
        producer.flush(timeout_seconds=20.0)
        assert producer.stats().acknowledged_rows == 4
    assert_lives(daemon)


def test_only_the_rows_with_nan_or_infinity_are_quarantined(daemon: Daemon) -> None:
    before, trained_before = quarantined(daemon, "non_finite"), trained(daemon)
    bad = samples(8)
    bad["x"][2, 1], bad["x"][5, 0] = np.nan, -np.inf
    with honest(daemon, "noisy") as producer:
        producer.push(bad)
        producer.flush(timeout_seconds=20.0)
        error = producer.stats().last_error
    assert "'x'" in error
    assert "2 of 8 rows" in error
    assert "stream.non_finite" in error
    assert quarantined(daemon, "non_finite") == before + 2
    daemon.wait_metric("insitu_trained_samples_total", trained_before + 6, source="fresh")
    assert log_says(daemon, "2 of 8 rows hold NaN or infinity")
    assert_lives(daemon)


@pytest.mark.parametrize("label", [-1, 10, 2**62])
def test_labels_out_of_range_are_quarantined(daemon: Daemon, label: int) -> None:
    before, trained_before = quarantined(daemon, "range"), trained(daemon)
    bad = samples(8)
    bad["y"][3] = label
    with honest(daemon, f"mislabelled {label}") as producer:
        producer.push(bad)
        producer.flush(timeout_seconds=20.0)
        error = producer.stats().last_error
    assert f"value {label} in row 3" in error
    assert "[0, 9]" in error
    assert quarantined(daemon, "range") == before + 1
    daemon.wait_metric("insitu_trained_samples_total", trained_before + 7, source="fresh")
    assert_lives(daemon)


def test_a_row_with_each_fault_in_one_batch_leaves_only_the_good_ones(daemon: Daemon) -> None:
    trained_before = trained(daemon)
    before = daemon.metric("insitu_quarantined_samples_total")
    bad = samples(8)
    bad["x"][0, 0], bad["y"][7] = np.nan, 11
    with honest(daemon, "twice wrong") as producer:
        producer.push(bad)
        producer.flush(timeout_seconds=20.0)
        assert "value 11" in producer.stats().last_error
    assert daemon.metric("insitu_quarantined_samples_total") == before + 2
    daemon.wait_metric("insitu_trained_samples_total", trained_before + 6, source="fresh")
    assert_lives(daemon)


def test_one_task_name_too_many_is_refused_and_the_known_ones_go_on(daemon: Daemon) -> None:
    before = quarantined(daemon, "malformed")
    with honest(daemon, "inventive") as producer:
        for index in range(6):
            producer.push(samples(4), task=f"task-{index}")
        producer.push(samples(4), task="yet another", evaluate=True)
        producer.flush(timeout_seconds=20.0)
        error = producer.stats().last_error
        producer.push(samples(4), task="task-0")
        producer.flush(timeout_seconds=20.0)
    assert "task" in error
    assert "4" in error
    assert quarantined(daemon, "malformed") >= before + 12
    assert daemon.metric("insitu_tasks") == 4
    assert_balanced(daemon)


def test_a_batch_beyond_the_limit_is_refused_not_asked_for_again(daemon: Daemon) -> None:
    before = daemon.metric("insitu_refused_messages_total", reason="too_big")
    with Hostile(daemon.endpoint) as peer:
        welcome = peer.greet("bulky")
        payload = payload_of(samples(4096 // SCHEMA.row_bytes + 1))
        peer.send(data(welcome.session, 1, payload))
        nack = peer.expect(Nack)
        assert (nack.code, nack.resend) == (NackCode.TOO_BIG, False)
        assert f"{len(payload)} bytes; allowed: up to {welcome.max_batch_bytes}" in nack.text
        assert peer.expect(Ack).accepted == 1
        good = payload_of(samples(4))
        peer.send(data(welcome.session, 2, good, first_row=1000))
        assert peer.expect(Ack).accepted == 2
    assert daemon.metric("insitu_refused_messages_total", reason="too_big") == before + 1
    assert_lives(daemon)


def test_a_fragment_beyond_the_limit_is_refused(daemon: Daemon) -> None:
    """Of a batch that pretends to be small; the frame itself is not."""
    with Hostile(daemon.endpoint) as peer:
        welcome = peer.greet("bulky frames")
        payload = bytes(2 << 20)
        message = data(welcome.session, 1, payload, rows=len(payload) // SCHEMA.row_bytes)
        peer.send(message)
        assert peer.expect(Nack).code == NackCode.TOO_BIG
        assert peer.expect(Ack).accepted == 1
    assert_lives(daemon)


def test_a_wrong_checksum_is_asked_for_again(daemon: Daemon) -> None:
    before = daemon.metric("insitu_go_backs_total")
    with Hostile(daemon.endpoint) as peer:
        welcome = peer.greet("corrupted")
        payload = payload_of(samples(4))
        peer.send(data(welcome.session, 1, payload, checksum=12345))
        nack = peer.expect(Nack)
        assert (nack.code, nack.resend, nack.seq) == (NackCode.CORRUPT, True, 1)
        assert "12345" in nack.text
        peer.send(data(welcome.session, 1, payload))
        assert peer.expect(Ack).accepted == 1
    assert daemon.metric("insitu_go_backs_total") == before + 1
    assert log_says(daemon, "is not 12345")
    assert_lives(daemon)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"rows": 3}, NackCode.SCHEMA),
        ({"offset": 0, "fragments": 2}, NackCode.MALFORMED),
    ],
    ids=["rows and bytes differ", "a fragment too few bytes"],
)
def test_a_batch_that_contradicts_itself_is_refused(
    daemon: Daemon, changes: dict[str, int], code: NackCode
) -> None:
    before = quarantined(daemon, code)
    with Hostile(daemon.endpoint) as peer:
        welcome = peer.greet(f"contradictory {code}")
        peer.send(data(welcome.session, 1, payload_of(samples(4)), **changes))
        nack = peer.expect(Nack)
        assert (nack.code, nack.resend) == (code, False)
        peer.send(data(welcome.session, 2, payload_of(samples(4)), first_row=4))
        peer.ping(welcome.session)
        wait_for(lambda: peer.expect(Ack).accepted == 2, "the next batch to be taken")
    assert quarantined(daemon, code) == before + changes.get("rows", 4)
    assert_lives(daemon)


def test_numbers_at_the_edge_of_their_range_are_survived(daemon: Daemon) -> None:
    """A header that is valid in every field, and absurd in all of them."""
    with Hostile(daemon.endpoint) as peer:
        welcome = peer.greet("absurd")
        most = 2**63 - 1
        payload = payload_of(samples(4))
        peer.send(
            data(
                welcome.session,
                1,
                payload,
                first_row=most,
                produced_at_ns=most,
                cursor="\0" * 256,
                flags=2**32 - 2,
                sample_ids=b"\xff" * 32,
                piece=([most], [most]),
            )
        )
        peer.expect(Ack)
    assert_lives(daemon)


def test_clip_mends_the_values_and_trains_all_rows(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    directory = tmp_path_factory.mktemp("clip")
    log = {"directory": str(directory / "log")}
    checkpoint = {"directory": str(directory / "checkpoints")}
    settings = config(directory, stream={"non_finite": "clip"}, log=log, checkpoint=checkpoint)
    with Daemon(directory, settings).start() as daemon:
        bad = samples(8)
        bad["x"][2, 1], bad["x"][5] = np.nan, np.inf
        with Producer(daemon.endpoint, stream="lab", producer_id="noisy") as producer:
            producer.push(bad)
            producer.flush(timeout_seconds=20.0)
            assert producer.stats().acknowledged_rows == 8
        daemon.wait_metric("insitu_trained_samples_total", 8, source="fresh")
        assert daemon.metric("insitu_clipped_values_total") == 5
        assert daemon.metric("insitu_quarantined_samples_total") == 0
        assert daemon.metric("insitu_skipped_steps_total") == 0
        assert_lives(daemon)
    disk = FileSystemDisk(directory / "log", writable=False)
    records = LogWalk(disk).records()  # those that are good to the last bit
    record = next(each for each in records if each.kind == Kind.BATCH)
    logged = np.frombuffer(record.payload, SCHEMA.numpy_row)["x"]
    assert np.isfinite(logged).all()
    assert (logged[0] == bad["x"][0]).all()
    disk.close()
