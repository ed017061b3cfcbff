"""A service that is stopped, killed or damaged goes on where it was: real processes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from daemon import Daemon, wait_for
from served import books_balance, config, producer, push, wait_log

from insitu.batch import Column
from insitu.checkpoint import list_checkpoints, read_checkpoint

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
    elif not path.startswith(("/buffer/positions", "/examiner/newest")):
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
    sections = RESUMABLE | BUFFERS[policy] | {
        "trainer": {"normalise": {"x": "running"}, "gradient_clip_norm": 1.0}
    }
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
        assert 0 < stopped["trainer"]["steps"]
        assert len(stopped["buffer"]["rows"]) > 0

        push(source, *TASKS["b"], task="b")  # the service is away
        parts.launch("--resume")
        push_all(producer(whole.wait_ready(), linger_seconds=60))
        push(source, *TASKS["a again"], task="a")
        source.close()
        parts.wait_ready()
        assert parts.metric("insitu_lost_samples_total") == 0
        assert differences(finish(whole), finish(parts)) == []
