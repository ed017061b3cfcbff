"""A service that is stopped, killed or damaged goes on where it was: real processes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from daemon import Daemon, wait_for
from insitu.batch import Column
from insitu.checkpoint import list_checkpoints, read_checkpoint
from served import books_balance, config, producer, push, wait_log

RESUMABLE = {
    "service": {"name": "small", "drain_on_stop": False},
    "schedule": {"name": "CosineAnnealingLR", "options": {"T_max": 200}, "warmup_steps": 10},
    "strategies": [
        {
            "name": "replay",
            "options": {"samples_per_step": 8},
            "memory": {"name": "class_balanced", "capacity_samples": 60},
        },
        {"name": "online_ewc", "options": {"strength": 5.0}},
    ],
}
TASKS = {"a": (0, 300), "b": (300, 420), "a again": (420, 610)}
BUFFERS: dict[str, dict[str, dict[str, Any]]] = {
    "fifo": {},
    "firo": {"buffer": {"policy": "firo", "watermark_samples": 40}},
    "reservoir": {
        "buffer": {"policy": "reservoir", "watermark_samples": 40, "capacity_samples": 160},
        "pace": {"samples_per_insert": 2.0},
    },
}


def daemon_in(directory: Path, **sections: Any) -> Daemon:
    directory.mkdir(exist_ok=True)
    return Daemon(directory, config(directory, **sections))


def newest(daemon: Daemon) -> Path:
    return list_checkpoints(Path(daemon.config["checkpoint"]["directory"]))[-1]


#: what tells how the rows were cut into batches, which time may decide
CUTS = (
    "/buffer/positions", "/buffer/log", "/buffer/audit/drawn_sum", "/buffer/places",
    "/buffer/batches", "/examiner/newest",
)  # fmt: skip


def flat(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a state by path, without what depends on the clock or on merging."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from flat(value, f"{path}/{key}")
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from flat(value, f"{path}/{index}")
    elif path.endswith("provenance"):
        columns = [c for c in Column if c is not Column.PRODUCED_AT_NS]
        yield path, tree[:, columns]
    elif not path.startswith(CUTS):
        yield path, tree


def differences(one: Path, two: Path) -> list[str]:
    """Paths at which two checkpoints are not the same, bit by bit."""
    ours, theirs = (dict(flat(read_checkpoint(path)[0])) for path in (one, two))
    assert len(ours) > 40
    wrong = sorted(ours.keys() ^ theirs.keys())
    for path in ours.keys() & theirs.keys():
        mine, yours = ours[path], theirs[path]
        if isinstance(mine, torch.Tensor):
            # NaN is never equal to itself, bytes are
            same = mine.dtype == yours.dtype and mine.shape == yours.shape
            same = same and mine.numpy().tobytes() == yours.numpy().tobytes()
        else:
            same = mine == yours
        if not same:
            wrong.append(path)
    return wrong


def push_all(target: Any) -> None:
    with target:
        for task, (start, stop) in TASKS.items():
            push(target, start, stop, task=task.removesuffix(" again"))


def finish(daemon: Daemon) -> Path:
    """Let it train to the end of the stream, stop it; its last checkpoint."""
    wait_for(lambda: len(ended_tasks(daemon)) == 3, f"all tasks to end, see {daemon.log_path}")
    assert daemon.stop() == 0
    return newest(daemon)


def ended_tasks(daemon: Daemon) -> list[str]:
    text = daemon.log_path.read_text()
    return [line for line in text.splitlines() if " ended after " in line]


@pytest.mark.parametrize("policy", BUFFERS)
def test_a_resumed_run_equals_one_that_was_never_stopped(tmp_path: Path, policy: str) -> None:
    sections = (
        RESUMABLE
        | BUFFERS[policy]
        | {"trainer": {"normalise": {"x": "running"}, "gradient_clip_norm": 1.0}}
    )
    with (
        daemon_in(tmp_path / "whole", **sections) as whole,
        daemon_in(tmp_path / "parts", **sections) as parts,
    ):
        whole.launch()
        parts.start()
        source = producer(parts, linger_seconds=60)
        push(source, *TASKS["a"], task="a")
        wait_for(lambda: parts.metric("insitu_steps_total") >= 5, "the first steps")
        assert parts.stop() == 0
        stopped, _ = read_checkpoint(newest(parts))
        assert stopped["trainer"]["steps"] > 0
        assert len(stopped["buffer"]["rows"]) > 0

        push(source, *TASKS["b"], task="b")  # the service is away
        parts.launch("--resume")
        push_all(producer(whole.wait_ready(), linger_seconds=60))
        push(source, *TASKS["a again"], task="a")
        source.close()
        parts.wait_ready()
        assert parts.metric("insitu_lost_samples_total") == 0
        assert differences(finish(whole), finish(parts)) == []


def test_after_a_kill_all_but_the_lost_is_trained_once(tmp_path: Path) -> None:
    with daemon_in(tmp_path, service={"name": "small"}) as daemon:
        daemon.start()
        source = producer(daemon, linger_seconds=60)
        push(source, 0, 160)
        source.flush(60)
        daemon.wait_metric("insitu_trained_samples_total", 160, source="fresh")
        assert daemon.post("checkpoint")[0] == 200
        push(source, 160, 240)  # acknowledged, and in no checkpoint
        source.flush(60)
        daemon.kill()

        push(source, 240, 400)  # nobody is there
        daemon.start("--resume")
        source.close()
        wait_log(daemon, "has ended its stream")
        daemon.wait_metric("insitu_trained_samples_total", 160, source="fresh")
        assert daemon.metric("insitu_lost_samples_total") == 80
        assert "80 samples of producer rank-0" in wait_log(daemon, "are lost")["message"]
        assert daemon.metric("insitu_trained_samples_total", source="fresh") == 160
        assert daemon.metric("insitu_duplicate_batches_total") == 0
        assert source.stats().acknowledged_rows == 400
        assert books_balance(daemon)
        assert daemon.stop() == 0
        state, _ = read_checkpoint(newest(daemon))
        assert state["buffer"]["scheduler"]["counters"]["drawn_first"] == 320


def damage_by_a_flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def damage_by_a_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def test_damaged_checkpoints_are_passed_over(tmp_path: Path) -> None:
    with daemon_in(tmp_path) as daemon:
        daemon.start()
        with producer(daemon, linger_seconds=60) as source:
            for end in (80, 160, 240):
                push(source, end - 80, end)
                daemon.wait_metric("insitu_trained_samples_total", end, source="fresh")
                assert daemon.post("checkpoint")[0] == 200
        daemon.kill()
        oldest, middle, last = list_checkpoints(tmp_path / "checkpoints")
        damage_by_a_flip(last / "tensors.safetensors")
        damage_by_a_cut(middle / "tensors.safetensors")

        daemon.start("--resume")
        assert daemon.status()["service"]["resumed_from"] == oldest.name
        told = [n["message"] for n in daemon.log_lines() if "is passed over" in n["message"]]
        assert [last.name in told[0], middle.name in told[1]] == [True, True]
        daemon.kill()

        damage_by_a_cut(oldest / "manifest.json")
        daemon.launch("--resume")
        assert daemon.wait() == 6
        assert "all 3 checkpoints" in daemon.log()


def test_nothing_to_resume_from_is_exit_code_6(tmp_path: Path) -> None:
    with daemon_in(tmp_path) as daemon:
        daemon.launch("--resume")
        assert daemon.wait() == 6
        assert "start without --resume" in daemon.log()


@pytest.mark.parametrize("log", [False, True], ids=["without a log", "with a log"])
def test_one_command_begins_and_goes_on(tmp_path: Path, log: bool) -> None:
    section = {"log": {"directory": str(tmp_path / "log")}} if log else {}
    with daemon_in(tmp_path, **section) as daemon:
        daemon.start("--resume-if-any")
        assert daemon.status()["service"]["resumed_from"] is None
        with producer(daemon) as source:
            push(source, 0, 80)
            source.flush(20.0)
        if log:  # before there is any checkpoint
            daemon.kill()
            daemon.start("--resume-if-any")
        daemon.wait_metric("insitu_trained_samples_total", 80, source="fresh")
        assert daemon.stop() == 0
        last = newest(daemon)

        daemon.start("--resume-if-any")
        assert daemon.status()["service"]["resumed_from"] == last.name
        assert daemon.status()["trainer"]["step"] == 10
        daemon.kill()

        damage_by_a_cut(last / "manifest.json")
        daemon.launch("--resume-if-any")
        assert daemon.wait() == 6, "never anew in silence"


def test_a_last_checkpoint_that_cannot_be_written_is_exit_code_3(tmp_path: Path) -> None:
    with daemon_in(tmp_path) as daemon:
        daemon.start()
        directory = tmp_path / "checkpoints"
        assert not directory.exists()  # nothing was written yet
        directory.write_text("a file in its way")
        assert daemon.post("checkpoint")[0] != 200
        assert daemon.get("/readyz")[0] == 503
        assert daemon.stop() == 3
        assert "no last checkpoint" in daemon.log()


def test_the_command_line_controls_it(tmp_path: Path) -> None:
    with daemon_in(tmp_path) as daemon:
        daemon.start()
        with producer(daemon, linger_seconds=0.1) as source:
            push(source, 0, 84)
            source.flush(60)
            daemon.wait_metric("insitu_trained_samples_total", 80, source="fresh")
            code, answer = insitu(daemon, "checkpoint")
            assert code == 0
            assert Path(json.loads(answer)["path"]) == newest(daemon)
            code, answer = insitu(daemon, "status")
            assert (code, "80" in answer) == (0, True)
            code, answer = insitu(daemon, "drain")
            assert (code, json.loads(answer)) == (0, {"step": 11, "pending_samples": 0})
            assert daemon.status()["service"]["state"] == "drained"
            push(source, 84, 90)
            assert source.stats().pending_rows == 6  # drained: it keeps them
            source.close()
        code, answer = insitu(daemon, "stop")
        assert (code, json.loads(answer)["step"]) == (0, 11)
        assert daemon.wait() == 0
        code, answer = insitu(daemon, "status")
        assert code == 4


def insitu(daemon: Daemon, command: str) -> tuple[int, str]:
    """Exit code and standard output of a command of the command line."""
    command_line = [sys.executable, "-m", "insitu_service.cli", command, "--url", daemon.url]
    done = subprocess.run(command_line, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout


def test_a_restart_under_a_pushing_producer_trains_every_row_once(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import json, os\n"
        "from insitu.batch import Column\n"
        "from insitu.objectives.classify import Classify\n\n"
        "class Seen(Classify):\n"
        "    def losses(self, outputs, batch):\n"
        "        with open(os.environ['SEEN'], 'a') as file:\n"
        "            print(*batch.column(Column.SAMPLE_ID).tolist(), file=file)\n"
        "        return super().losses(outputs, batch)\n"
    )
    options = {"input": "x", "target": "y", "classes": 4}
    with daemon_in(tmp_path, objective={"name": "mine:Seen", "options": options}) as daemon:
        environment = {"SEEN": str(tmp_path / "seen"), "PYTHONPATH": str(tmp_path)}
        daemon.start(environment=environment)
        source = producer(daemon, when_full="block", window_bytes=16_000, linger_seconds=60)
        rows = 6000
        thread = threading.Thread(target=push, args=(source, 0, rows))
        thread.start()
        daemon.wait_metric("insitu_trained_samples_total", 500, source="fresh")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        assert source.stats().pushed_rows < rows  # the stop came in the middle
        daemon.start("--resume", environment=environment)
        thread.join(60)
        source.close()
        wait_log(daemon, "has ended its stream")
        wait_for(lambda: daemon.status()["buffer"]["pending_samples"] == 0, "all to be trained")
        assert books_balance(daemon)
        assert daemon.metric("insitu_lost_samples_total") == 0
        assert daemon.stop() == 0
    stats = source.stats()
    assert (stats.acknowledged_rows, stats.pending_rows) == (rows, 0)
    assert sum(stats.dropped_rows.values()) == 0
    trained = sorted(map(int, (tmp_path / "seen").read_text().split()))
    assert trained == list(range(rows))
