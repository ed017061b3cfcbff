"""`insitu log`: what it says of logs that are whole, torn, damaged, or another checkpoint's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from insitu.checkpoint import SnapshotBuffers, read_checkpoint, write_checkpoint
from insitu.schema import Schema
from insitu.stream.buffer import StreamBuffer
from insitu.stream.log.books import LogBooks
from insitu.stream.log.disk import FileSystemDisk
from insitu.stream.log.record import Kind
from insitu.stream.log.segment import segment_name
from insitu.stream.log.stream_log import StreamLog
from insitu.stream.log.walk import LogWalk
from insitu.stream.logged_inlet import LoggedInlet
from insitu.stream.pacing import FixedPace
from insitu.stream.policies import FIFO, FIRO, Policy, Reservoir
from insitu.stream.staging import Staging
from insitu.stream.stamp import Stamp
from insitu.tasks import TaskLedger
from insitu_service import exit_codes
from insitu_service.cli.run import run
from logged import SCHEMA, batch, counting_clock, opened, payload, stamp


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[FileSystemDisk]:
    disk = FileSystemDisk(tmp_path / "log")
    yield disk
    disk.close()


def _log(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = run(["log", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def _flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


# ---- what is there ---------------------------------------------------------------------------


def _of_two_producers(disk: FileSystemDisk) -> None:
    log, *_ = opened(disk, segment_bytes=1024)
    keep = np.array([True, False, True])
    for seq in range(1, 6):
        log.append(Kind.BATCH, stamp(seq), 3, keep=keep, payload=[payload(seq, 3)])
    log.append(Kind.PROBE, stamp(1, "other", flags=1), 2, payload=[payload(9, 2)])
    log.append(Kind.REFUSE, stamp(2, "other"), 4)
    log.append(Kind.SKIP, stamp(3, "other"), 5)
    log.append(Kind.LEAVE, Stamp("other", 0, 0, None, 0), 0)
    log.append(Kind.END, None, 0)
    log.sync()
    log.close()


def test_info_counts_what_is_there(
    disk: FileSystemDisk, capsys: pytest.CaptureFixture[str]
) -> None:
    _of_two_producers(disk)  # the lock is held: a service may be running
    code, out, _ = _log(capsys, "info", disk.directory, "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["first_record"], found["last_record"]) == (1, 10)
    assert found["kinds"] == dict.fromkeys(found["kinds"], 1) | {"BATCH": 5, "REOPEN": 0}
    camera = found["producers"]["camera"]
    assert (camera["first"], camera["last"], camera["batches"]) == ([1, 1], [1, 5], 5)
    assert (camera["rows"], camera["quarantined_rows"], camera["missing_rows"]) == (10, 5, 28)
    other = found["producers"]["other"]
    assert (other["rows"], other["probe_rows"], other["refused_rows"]) == (0, 2, 4)
    assert other["quarantined_rows"] == 5
    assert sum(segment["used_bytes"] > 0 for segment in found["segments"]) > 1
    code, out, _ = _log(capsys, "info", disk.directory)
    assert code == 0
    assert "10 records in" in out
    assert "5 BATCH, 1 PROBE, 1 SKIP, 1 REFUSE, 1 LEAVE, 1 END" in out
    assert "producer camera: batches (1, 1) to (1, 5)" in out
    assert segment_name(1) in out
    assert "1970-01-01T00:00:00" in out


def test_verify_finds_nothing_wrong_with_a_good_log(
    disk: FileSystemDisk, capsys: pytest.CaptureFixture[str]
) -> None:
    _of_two_producers(disk)
    code, out, err = _log(capsys, "verify", disk.directory)
    assert (code, err) == (0, "")
    assert out.endswith("no flaws\n")


def _damage_the_second_of_four(disk: FileSystemDisk) -> None:
    """A log of four batches, each synced, and one bit of the second changed afterwards."""
    log, *_ = opened(disk)
    for value in range(1, 5):
        batch(log, value)
        log.sync()
    log.close()
    _flip(disk.directory / segment_name(1), 96 + 160 + 130)


def test_verify_names_what_is_damaged(
    disk: FileSystemDisk, capsys: pytest.CaptureFixture[str]
) -> None:
    _damage_the_second_of_four(disk)
    code, out, err = _log(capsys, "verify", disk.directory)
    assert code == exit_codes.CHECKPOINT
    assert "wrong: record 2 does not match its digest" in err
    assert "wrong: record 3: batch 3 of 'camera' follows batch 1" in err
    assert out.endswith("2 flaws\n")
    code, out, _ = _log(capsys, "verify", disk.directory, "--json")
    assert (code, len(json.loads(out)["flaws"])) == (exit_codes.CHECKPOINT, 2)


def test_a_torn_tail_is_told_and_no_flaw(
    disk: FileSystemDisk, capsys: pytest.CaptureFixture[str]
) -> None:
    log, *_ = opened(disk)
    for value in range(1, 5):
        batch(log, value)
    log.close()
    _flip(disk.directory / segment_name(1), 96 + 3 * 160 + 130)
    code, out, _ = _log(capsys, "verify", disk.directory)
    assert code == 0
    assert "torn tail: " in out
    assert "bytes behind record 3 (record 4 does not match its digest)" in out


@pytest.mark.parametrize(
    ("stamps", "flaw"),
    [
        ([(1, 1, 0), (1, 3, 2)], "batch 3 of 'p' follows batch 1"),
        ([(1, 1, 0), (1, 1, 0)], "batch 1 of 'p' follows batch 1"),
        ([(2, 1, 0), (1, 2, 2)], "is of epoch 1, which 2 has fenced"),
        ([(1, 1, 4), (1, 2, 5)], "brings rows again, from 5 on"),
    ],
)
def test_missing_and_doubled_batches_are_found(
    disk: FileSystemDisk,
    capsys: pytest.CaptureFixture[str],
    stamps: list[tuple[int, int, int]],
    flaw: str,
) -> None:
    log, *_ = opened(disk)
    for epoch, seq, row in stamps:
        given = Stamp("p", epoch, seq, None, row)
        log.append(Kind.BATCH, given, 2, payload=[payload(seq, 2)])
    log.close()
    code, _, err = _log(capsys, "verify", disk.directory)
    assert code == exit_codes.CHECKPOINT
    assert flaw in err


def test_new_lives_and_places_that_are_written_down_are_no_flaws() -> None:
    """As the lobby notes a place: a skip of no rows, at the batch where the producer stands."""
    from random import Random

    from simulated_disk import SimulatedDisk

    disk = SimulatedDisk(Random(0))
    log, *_ = opened(disk)
    given = [(1, 1, 0, 2), (1, 2, 2, 2), (1, 2, 4, 0), (1, 3, 4, 2), (2, 3, 6, 0), (2, 4, 6, 2)]
    for epoch, seq, row, rows in given:
        kind = Kind.BATCH if rows else Kind.SKIP
        data = [payload(seq, rows)] if rows else []
        log.append(kind, Stamp("p", epoch, seq, None, row), rows, payload=data)
    log.close()
    books = LogBooks()
    for record in LogWalk(disk).records():
        books.add(record)
    assert books.flaws == []
    assert (books.producers["p"].lives, books.producers["p"].rows) == (2, 8)


# ---- against a checkpoint --------------------------------------------------------------------


class _Run:
    """A buffer with a log in front, drawn from without a service; `save` writes a checkpoint."""

    def __init__(self, root: Path, policy: Policy, when_full: Any = "block") -> None:
        self.root = root
        self.disk = FileSystemDisk(root / "log")
        self.log = StreamLog(self.disk, SCHEMA, segment_bytes=4096, clock=counting_clock())
        self.buffer = StreamBuffer(
            SCHEMA,
            policy.capacity_samples,
            policy,
            FixedPace(),
            TaskLedger(most_tasks=10),
            when_full=when_full,
            generator=torch.Generator().manual_seed(0),
        )
        self.inlet = LoggedInlet(
            self.buffer,
            lambda stamp, batch: True,
            self.log,
            Staging(SCHEMA, 1 << 16),
            most_rows=self.buffer.capacity_samples,
        )
        self.inlet.recover()
        self.seq = 0

    def push(self, rows: int, producer_id: str = "camera") -> None:
        self.seq += 1
        reservation = self.inlet.reserve(rows)
        assert reservation is not None
        reservation.write(0, payload(self.seq, rows))
        keep = np.arange(rows) % 5 != 4
        given = Stamp(producer_id, 1, self.seq, None, self.seq * 10)
        assert self.inlet.commit(reservation, given, keep=keep)

    def draw(self, rows: int) -> None:
        draw = self.buffer.draw(rows, 0.0)
        assert draw is not None
        self.buffer.release(draw)

    def save(self, step: int) -> Path:
        self.log.sync()
        snapshot = SnapshotBuffers(arenas=1).capture({"buffer": self.buffer.state_dict()})
        assert snapshot is not None
        return write_checkpoint(self.root / "checkpoints", snapshot, step)

    def close(self) -> None:
        self.log.close()
        self.disk.close()


POLICIES = {
    "fifo": lambda: FIFO(200),
    "firo": lambda: FIRO(200, watermark_samples=8),
    "reservoir": lambda: Reservoir(200, kept_samples=8),
}


@pytest.mark.parametrize("policy", POLICIES)
def test_every_accepted_row_is_proved_to_be_drawn_once_or_pending(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], policy: str
) -> None:
    life = _Run(tmp_path, POLICIES[policy]())
    for turn in range(6):
        life.push(10)
        life.push(7)
        if turn > 1:
            life.draw(6)
    saved = life.save(1)
    life.push(5)  # behind the checkpoint
    code, out, err = _log(capsys, "verify", life.disk.directory, "--checkpoint", saved)
    assert (code, err) == (0, "")
    audit = read_checkpoint(saved)[0]["buffer"]["audit"]
    accepted = 6 * (8 + 6)
    pending = accepted - audit["drawn_rows"]
    assert 0 < pending < accepted
    words = f"{accepted} rows accepted = {audit['drawn_rows']} drawn + 0 dropped + {pending}"
    assert f"{words} pending, each exactly once" in out
    code, again, _ = _log(capsys, "verify", life.disk.directory, "--checkpoint", saved.parent)
    assert (code, again) == (0, out)
    life.close()


def test_dropped_rows_are_accounted_for(tmp_path: Path, capsys: Any) -> None:
    life = _Run(tmp_path, FIFO(16), when_full="drop_oldest")
    for _ in range(6):
        life.push(5)
    saved = life.save(1)
    code, out, _ = _log(capsys, "verify", life.disk.directory, "--checkpoint", saved)
    audit = read_checkpoint(saved)[0]["buffer"]["audit"]
    assert audit["dropped_rows"] > 0
    assert code == 0
    assert f"24 rows accepted = 0 drawn + {audit['dropped_rows']} dropped + " in out
    life.close()


def _altered(saved: Path, change: Any) -> Path:
    """A checkpoint like this one, whole, but for a change to its buffer."""
    state = read_checkpoint(saved)[0]
    change(state["buffer"])
    snapshot = SnapshotBuffers(arenas=1).capture(state)
    assert snapshot is not None
    return write_checkpoint(saved.parent / "altered", snapshot, 1)


def _swap_pending(buffer: dict[str, Any]) -> None:
    buffer["places"][-1] = buffer["places"][-2]


def _lose(buffer: dict[str, Any]) -> None:
    buffer["audit"]["drawn_rows"] -= 1


def _other_chain(buffer: dict[str, Any]) -> None:
    buffer["log"]["chain"] ^= 1


def _behind(buffer: dict[str, Any]) -> None:
    buffer["positions"][0][2] -= 1


def _ahead(buffer: dict[str, Any]) -> None:
    buffer["log"]["record"] += 100


@pytest.mark.parametrize(
    ("change", "flaw"),
    [
        (_swap_pending, "not the same ones: some twice, others never"),
        (_lose, "rows were accepted"),
        (_other_chain, "they hold other records"),
        (_behind, "producer 'camera' is at (epoch, batch) (1, 6) in the log, at (1, 5)"),
        (_ahead, "before the checkpoint's"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_found_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Any, flaw: str
) -> None:
    life = _Run(tmp_path, FIFO(64))
    for _ in range(6):
        life.push(8)
    life.draw(10)
    saved = _altered(life.save(1), change)
    code, _, err = _log(capsys, "verify", life.disk.directory, "--checkpoint", saved)
    assert code == exit_codes.CHECKPOINT
    assert flaw in err
    life.close()


def test_what_was_released_cannot_be_audited_and_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    life = _Run(tmp_path, FIFO(64))
    early = life.save(1)
    for _ in range(40):
        life.push(10)
        life.draw(8)
    saved = life.save(2)
    assert life.log.release(life.buffer.place.record, 0) > 0
    code, out, _ = _log(capsys, "verify", life.disk.directory, "--checkpoint", saved)
    assert code == 0
    assert "were released, so the rows cannot be audited; chain and positions were compared" in out
    code, out, _ = _log(capsys, "verify", life.disk.directory, "--checkpoint", early)
    assert code == 0
    life.close()


# ---- rows, and giving up -----------------------------------------------------------------------


def test_export_gives_every_row_with_its_provenance(
    disk: FileSystemDisk, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    _of_two_producers(disk)
    target = tmp_path / "rows.npz"
    code, out, _ = _log(capsys, "export", disk.directory, "--output", target)
    assert code == 0
    assert out == f"wrote 17 rows of 2 fields to {target}\n"
    with np.load(target, allow_pickle=False) as found:
        rows = np.concatenate([payload(seq, 3) for seq in range(1, 6)] + [payload(9, 2)])
        expected = rows.view(SCHEMA.numpy_row)
        np.testing.assert_array_equal(found["x"].view("u4"), expected["x"].copy().view("u4"))
        np.testing.assert_array_equal(found["y"], expected["y"])
        assert found["x"].dtype == np.float32
        assert found["@record"].tolist() == [*np.repeat(range(1, 6), 3), 6, 6]
        assert found["@row"].tolist() == [0, 1, 2] * 5 + [0, 1]
        assert found["@kept"].tolist() == [True, False, True] * 5 + [True] * 2
        assert found["@kind"].tolist() == [1] * 15 + [2] * 2
        assert found["@producers"][found["@producer"]].tolist() == ["camera"] * 15 + ["other"] * 2
        assert found["@producer_row"][:4].tolist() == [10, 11, 12, 20]
        assert found["@flags"].tolist() == [0] * 15 + [1] * 2
        assert found["@seq"].tolist() == [*np.repeat(range(1, 6), 3), 1, 1]
        assert set(found["@tasks"]) == {""}


def test_export_of_some_records(
    disk: FileSystemDisk, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    _of_two_producers(disk)
    target = tmp_path / "rows.npz"
    arguments = ("export", disk.directory, "--output", target)
    assert _log(capsys, *arguments, "--from", 2, "--to", 4)[0] == 0
    with np.load(target) as found:
        assert sorted(set(found["@record"].tolist())) == [2, 3, 4]
    code, _, err = _log(capsys, *arguments, "--from", 9)
    assert code == exit_codes.USAGE
    assert "have no rows" in err
    with np.load(target) as found:
        assert len(found["y"]) == 9  # the former file is untouched
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_export_leaves_out_what_is_damaged(
    disk: FileSystemDisk, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    _damage_the_second_of_four(disk)
    target = tmp_path / "rows.npz"
    code, _, err = _log(capsys, "export", disk.directory, "--output", target)
    assert code == exit_codes.CHECKPOINT
    assert "record 2 does not match its digest" in err
    with np.load(target) as found:
        assert found["@record"].tolist() == [1, 1, 3, 3, 4, 4]


def test_cut_gives_up_what_is_damaged_and_the_log_goes_on(
    disk: FileSystemDisk, capsys: pytest.CaptureFixture[str]
) -> None:
    _damage_the_second_of_four(disk)
    code, _, err = _log(capsys, "cut", disk.directory, "--yes")
    assert (code, "another service" in err) == (exit_codes.RESOURCE, True)
    directory = disk.directory
    disk.close()
    code, out, _ = _log(capsys, "cut", directory, "--yes")
    assert code == 0
    assert "record 2 does not match its digest\nthe log ends with record 1\n" in out
    disk.__init__(directory)
    log, found, recovery = opened(disk)
    assert ([each.number for each in found], recovery.torn_bytes) == ([1], 0)
    log.close()


@pytest.mark.parametrize("command", ["info", "verify"])
def test_a_directory_without_a_log_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    code, _, err = _log(capsys, command, tmp_path)
    assert code == exit_codes.USAGE
    assert "there is no readable segment of a log" in err
    assert _log(capsys, command, tmp_path / "none")[0] == exit_codes.USAGE


def test_bfloat16_is_exported_as_its_bits(
    disk: FileSystemDisk, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    schema = Schema.of({"b": ("bfloat16", (2,))})
    log = StreamLog(disk, schema, segment_bytes=4096)
    log.recover(0, print)
    rows = np.zeros(2, schema.numpy_row)
    rows["b"] = [[1, 2], [3, 4]]
    log.append(Kind.BATCH, stamp(1), 2, payload=[rows.tobytes()])
    log.close()
    target = tmp_path / "rows.npz"
    assert _log(capsys, "export", disk.directory, "--output", target)[0] == 0
    with np.load(target) as found:
        assert found["b"].tolist() == [[1, 2], [3, 4]]
        assert found["b"].dtype == np.uint16
