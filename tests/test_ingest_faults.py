"""The ingest thread with a buffer that nobody empties, and with a part of ours that is broken."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
import zmq

from bad_input import SCHEMA, Hostile, config, data, first_half, payload_of, samples
from daemon import wait_for
from insitu.batch import Column, SampleFlag
from insitu.config import load_config
from insitu.stream.inlet import Inlet
from insitu.wire.checksum import checksum
from insitu.wire.messages import Ack, Bye, Data, Fenced, Nack, NackCode, NoSession
from insitu_service.compose import compose_ingest
from insitu_service.ingest.door import Door, Refusal, Views
from insitu_service.ingest.ingest import Ingest
from insitu_service.ingest.intake import Intake
from insitu_service.ingest.session import Sessions
from insitu_service.learning.building import build_buffer
from insitu_service.learning.probe_inbox import ProbeInbox
from peer import wait_until


@dataclass
class Rig:
    """An ingest thread on a socket, and the parts that it fills."""

    endpoint: str
    buffer: Any
    intake: Intake
    running: Ingest
    probes: ProbeInbox


@contextmanager
def ingest(
    directory: Path,
    door: Door | None = None,
    probes: ProbeInbox | None = None,
    state: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Iterator[Rig]:
    """Runs one without a learner."""
    path = directory / "run.yaml"
    path.write_text(yaml.safe_dump(config(directory, **changes)))
    settings = load_config(path, (), {})
    buffer, intake = build_buffer(settings, torch.device("cpu")), Intake()
    context: zmq.Context[Any] = zmq.Context()
    if state is not None:
        buffer.load_state_dict(state)
    probes = ProbeInbox() if probes is None else probes
    running = compose_ingest(
        settings, context, Inlet(buffer, probes.take), Sessions(), door or Door(SCHEMA, {}), intake
    )
    thread = threading.Thread(target=running.run)
    thread.start()
    rig = Rig(running.endpoints[0], buffer, intake, running, probes)
    try:
        yield rig
    finally:
        running.stop()
        thread.join()
        context.destroy(linger=0)
    assert running.failure is None


class BrokenOnce(Door):
    """A fault of ours: it raises what nobody expects, the first time."""

    def __init__(self) -> None:
        super().__init__(SCHEMA, {})
        self.broken = True

    def inspect(self, views: Views) -> Refusal | None:
        if self.broken:
            self.broken = False
            raise RuntimeError("a fault of ours")
        return super().inspect(views)


def second_half(whole: Data) -> Data:
    cut = len(whole.payload) // 2
    half = whole.payload[cut:]
    return replace(
        whole, fragment=1, fragments=2, offset=cut, payload=half, checksum=checksum("crc32", half)
    )


def test_a_fault_of_ours_costs_one_session_and_no_sample(tmp_path: Path) -> None:
    with ingest(tmp_path, BrokenOnce()) as rig, Hostile(rig.endpoint) as peer:
        session = peer.greet("unlucky").session
        peer.send(data(session, 1, payload_of(samples(4))))
        assert peer.expect(NoSession).session == session
        assert rig.intake.refused_messages["internal"] == 1
        assert rig.buffer.snapshot().reserved_samples == 0
        again = peer.greet("unlucky")
        assert again.next_seq == 1
        peer.send(data(again.session, 1, payload_of(samples(4))))
        assert peer.expect(Ack).accepted == 1
        assert rig.buffer.snapshot().unseen_samples == 4
        assert rig.intake.received_samples == 4


def batch(session: int, seq: int, rows: int, first_row: int = 0, **changes: Any) -> Data:
    return data(session, seq, payload_of(samples(rows)), first_row=first_row, **changes)


def accepted(peer: Hostile, seq: int) -> None:
    """Wait until batches up to this one are accepted."""
    while peer.expect(Ack).accepted < seq:
        pass


def test_probes_that_nobody_takes_in_stay_with_their_producer(tmp_path: Path) -> None:
    probes = ProbeInbox(capacity_bytes=100)
    with ingest(tmp_path, probes=probes) as rig, Hostile(rig.endpoint) as peer:
        session = peer.greet("prober").session
        for seq in (1, 2):
            peer.send(batch(session, seq, 4, 4 * (seq - 1), flags=SampleFlag.EVALUATE))
        accepted(peer, 1)
        peer.ping(session)
        assert peer.expect(Ack).accepted == 1
        assert rig.buffer.positions()["prober"].rows == 4
        assert rig.buffer.snapshot().reserved_samples == 0
        assert len(probes.take_all()) == 1
        peer.send(batch(session, 2, 4, 4, flags=SampleFlag.EVALUATE))
        accepted(peer, 2)
        assert [probe.batch.rows for probe in probes.take_all()] == [4]
        assert rig.intake.probe_samples == 8


def test_a_probe_without_its_bad_rows_keeps_the_numbers_of_the_others(tmp_path: Path) -> None:
    with ingest(tmp_path) as rig, Hostile(rig.endpoint) as peer:
        session = peer.greet("prober").session
        arrays = samples(4)
        arrays["x"][1] = np.nan
        ids = np.arange(70, 74).astype("<i8").tobytes()
        probe = data(session, 1, payload_of(arrays), first_row=10, flags=1, sample_ids=ids)
        peer.send(probe)
        accepted(peer, 1)
        (kept,) = rig.probes.take_all()
        assert kept.batch.column(Column.ROW).tolist() == [10, 12, 13]
        assert kept.batch.column(Column.SAMPLE_ID).tolist() == [70, 72, 73]


def test_what_was_lost_is_counted_once_however_often_the_producer_connects(
    tmp_path: Path,
) -> None:
    with ingest(tmp_path) as rig, Hostile(rig.endpoint) as peer:
        for _ in range(3):
            hello = peer.greet("ahead", first_available_seq=5, first_available_row=40)
            assert hello.next_seq == 5
        assert rig.intake.lost_samples == 40


def test_an_older_life_stays_out_though_the_newer_one_left_without_a_word(tmp_path: Path) -> None:
    with ingest(tmp_path) as rig, Hostile(rig.endpoint) as peer:
        session = peer.greet("relaunched", epoch=2).session
        peer.send(Bye(session, 0, 0, 0, 0.0))
        peer.expect(Bye)
        peer.hello("relaunched", epoch=1)
        assert peer.expect(Fenced).epoch == 2


def test_rows_that_a_producer_dropped_are_counted_once_though_the_batch_comes_again(
    tmp_path: Path,
) -> None:
    with ingest(tmp_path) as rig, Hostile(rig.endpoint) as peer:
        session = peer.greet("thinned").session
        whole = batch(session, 1, 4, first_row=10)
        peer.send(first_half(whole))
        peer.send(replace(second_half(whole), checksum=0))
        assert peer.expect(Nack).code == NackCode.CORRUPT
        for part in (first_half(whole), second_half(whole)):
            peer.send(part)
        accepted(peer, 1)
        assert rig.intake.producer_dropped_samples == 10


def test_bye_is_answered_with_the_last_ack(tmp_path: Path) -> None:
    with ingest(tmp_path) as rig, Hostile(rig.endpoint) as peer:
        session = peer.greet("hasty").session
        peer.send(batch(session, 1, 4))
        peer.send(Bye(session, 1, 4, 0, 0.0))
        accepted(peer, 1)
        assert peer.expect(Bye).session == session


class Watch:
    """A clock that can be put forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


def test_a_service_that_was_stopped_does_not_take_its_own_silence_for_that_of_others(
    tmp_path: Path,
) -> None:
    with ingest(tmp_path) as rig, Hostile(rig.endpoint) as one, Hostile(rig.endpoint) as two:
        sessions = one.greet("one").session, two.greet("two").session
        watch = Watch()
        rig.running._clock = watch
        watch.ahead = 100.0  # as if the process had not run for so long
        one.ping(sessions[0])
        one.expect(Ack)
        two.ping(sessions[1])
        two.expect(Ack)
        assert rig.intake.expired_sessions == 0
        wait_until(lambda: rig.intake.expired_sessions == 2)  # now they are silent indeed


def test_who_does_not_come_back_after_a_resume_holds_no_task_open(tmp_path: Path) -> None:
    (tmp_path / "before").mkdir()
    with ingest(tmp_path / "before") as rig, Hostile(rig.endpoint) as peer:
        for name in ("gone", "back"):
            peer.send(batch(peer.greet(name).session, 1, 8, task=name))
            accepted(peer, 1)
        drawn = rig.buffer.draw(8, 1.0)
        state = rig.buffer.state_dict()
        assert drawn is not None
        assert drawn.ended_tasks == ()
    with ingest(tmp_path, state=state) as rig, Hostile(rig.endpoint) as peer:
        session = peer.greet("back").session
        rig.buffer.draw(8, 1.0)

        def ended() -> list[str]:
            peer.ping(session)
            draw = rig.buffer.draw(8, 0.1)
            return [visit.name for visit in draw.ended_tasks] if draw else []

        assert wait_for(ended, "the task to end") == ["gone"]


def test_an_ingest_thread_that_has_ended_may_still_be_woken(tmp_path: Path) -> None:
    """By a learner that goes on to train what had come, and to save it."""
    with ingest(tmp_path) as rig:
        pass
    rig.running.wake()
    rig.running.drain("the service stops")


@pytest.mark.parametrize("in_fragments", [False, True])
def test_drop_newest_settles_and_counts_what_finds_no_room(
    tmp_path: Path, in_fragments: bool
) -> None:
    ring = {"capacity_samples": 16, "when_full": "drop_newest"}
    with (
        ingest(tmp_path, buffer=ring, trainer={"batch_size": 4}) as rig,
        Hostile(rig.endpoint) as peer,
    ):
        session = peer.greet("fast").session
        for seq in range(1, 6):
            whole = data(session, seq, payload_of(samples(6)), first_row=6 * (seq - 1))
            parts = [first_half(whole), second_half(whole)] if in_fragments else [whole]
            for part in parts:
                peer.send(part)
        wait_until(lambda: rig.intake.received_samples == 30)
        accepted = 0
        while accepted < 5:
            accepted = peer.expect(Ack).accepted
        fill = rig.buffer.snapshot()
        assert (fill.unseen_samples, fill.dropped, fill.reserved_samples) == (12, 18, 0)
        assert rig.buffer.positions()["fast"].rows == 30


def test_block_asks_again_for_what_finds_no_room(tmp_path: Path) -> None:
    with (
        ingest(tmp_path, buffer={"capacity_samples": 16}, trainer={"batch_size": 4}) as rig,
        Hostile(rig.endpoint) as peer,
    ):
        session = peer.greet("patient").session
        batch = payload_of(samples(6))
        for seq in (1, 2, 3):  # beyond its credit
            peer.send(data(session, seq, batch, first_row=6 * (seq - 1)))
        nack = peer.expect(Nack)
        assert (nack.code, nack.seq, nack.resend) == (NackCode.FULL, 3, True)
        assert rig.buffer.snapshot().unseen_samples == 12
        rig.buffer.on_room = lambda: None
        draw = rig.buffer.draw(4, 1.0)
        assert draw is not None
        rig.buffer.release(draw)
        peer.ping(session)
        peer.expect(Ack)
        peer.send(data(session, 3, batch, first_row=12))
        wait_until(lambda: rig.intake.accepted_samples == 18)
        assert rig.intake.full_batches == 1
        assert rig.buffer.snapshot().dropped == 0


def test_more_rows_than_the_ring_are_too_big_not_fatal(tmp_path: Path) -> None:
    with (
        ingest(tmp_path, buffer={"capacity_samples": 16}, trainer={"batch_size": 4}) as rig,
        Hostile(rig.endpoint) as peer,
    ):
        session = peer.greet("huge").session
        peer.send(data(session, 1, payload_of(samples(17))))
        nack = peer.expect(Nack)
        assert (nack.code, nack.resend) == (NackCode.TOO_BIG, False)
        peer.send(data(session, 2, payload_of(samples(2)), first_row=17))
        accepted = 0
        while accepted < 2:
            accepted = peer.expect(Ack).accepted
        assert rig.intake.quarantined_samples[NackCode.TOO_BIG] == 17
        assert rig.buffer.snapshot().unseen_samples == 2


def test_no_line_about_bad_input_can_flood_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    """Each line about bad input carries a key, by which the log leaves repetitions out."""
    logger = logging.getLogger("insitu.ingest")
    logger.addHandler(caplog.handler)  # whether or not another test has set up the logs
    request.addfinalizer(lambda: logger.removeHandler(caplog.handler))
    with ingest(tmp_path) as rig, Hostile(rig.endpoint) as peer:
        for _ in range(20):
            peer.frames(b"junk")
        peer.hello("a", stream="nowhere")
        peer.hello("b", version=9)
        session = peer.greet("c").session
        peer.send(data(session, 1, payload_of(samples(4)), checksum=1))
        peer.expect(Nack)
        wait_until(lambda: rig.intake.refused_messages["malformed"] == 20)
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) >= 23
    assert all(getattr(record, "key", None) for record in warnings)
