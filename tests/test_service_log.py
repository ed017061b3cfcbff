"""The stream log in a real service: killed, powered off, filled up; nothing lost, nothing twice."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

from daemon import Daemon, wait_for
from forked import ForkedCommand
from insitu.checkpoint import list_checkpoints, read_checkpoint
from served import books_balance, config, producer, push
from test_service_resume import differences, newest


def daemon_in(directory: Path, **sections: Any) -> Daemon:
    directory.mkdir(exist_ok=True)
    log = {"directory": str(directory / "log"), **sections.pop("log", {})}
    return Daemon(directory, config(directory, log=log, **sections))


def test_killed_at_any_moment_it_learns_what_it_would_have(tmp_path: Path) -> None:
    """Three times killed, with and without a checkpoint before; the weights are bit-identical."""
    parts = daemon_in(tmp_path / "parts", checkpoint={"every_steps": 23})
    with parts:
        parts.start()
        source = producer(parts, linger_seconds=60)
        for life, (start, stop) in enumerate([(0, 60), (60, 300), (300, 420), (420, 610)]):
            push(source, start, stop, task="a" if life < 2 else "b")
            source.flush(level="accepted", timeout_seconds=60)
            if life == 3:
                break
            parts.signal(signal.SIGKILL)
            parts.wait()
            parts.start("--resume")
        source.close()
        wait_for(lambda: books_balance(parts), "the books to balance")
        assert parts.metric("insitu_lost_samples_total") == 0
        assert parts.stop() == 0
        killed = newest(parts)
    whole = daemon_in(tmp_path / "whole", checkpoint={"every_steps": 23})
    with whole:
        whole.start()
        with producer(whole, linger_seconds=60) as source:
            for life, (start, stop) in enumerate([(0, 60), (60, 300), (300, 420), (420, 610)]):
                push(source, start, stop, task="a" if life < 2 else "b")
        assert whole.stop() == 0
        assert differences(killed, newest(whole)) == []
    state, _ = read_checkpoint(killed)
    assert state["buffer"]["audit"]["drawn_rows"] == 610
    check_log(parts, killed)
    check_replay(parts, killed)


def check_log(daemon: Daemon, checkpoint: Path) -> None:
    """The log proves that every row went into the weights once."""
    words = ["log", "verify", str(daemon.directory / "log"), "--checkpoint", str(checkpoint)]
    code, text = command(daemon.directory, *words)
    assert code == 0, text
    assert "610 rows accepted = 610 drawn + 0 dropped + 0 pending, each exactly once" in text


def check_replay(daemon: Daemon, checkpoint: Path) -> None:
    """The log alone gives the same weights, and other configurations something to compare."""
    directory = daemon.directory
    other = directory / "slower.yaml"
    other.write_text((directory / "run.yaml").read_text().replace("lr: 0.05", "lr: 0.01"))
    output = directory / "replay"
    configs = ["--config", str(directory / "run.yaml"), "--config", str(other)]
    words = ["replay", str(directory / "log"), *configs, "--output", str(output)]
    code, text = command(directory, *words)
    assert code == 0, text
    assert differences(checkpoint, list_checkpoints(output / "run")[-1]) == []
    assert differences(checkpoint, list_checkpoints(output / "slower")[-1]) != []
    results = json.loads((output / "replay.json").read_text())
    assert [(each["name"], each["samples"]) for each in results] == [("run", 610), ("slower", 610)]
    assert results[0]["loss"] != results[1]["loss"]
    assert (output / "replay.png").stat().st_size > 5000
    code, text = command(directory, *words)
    assert code == 2
    assert "is there already" in text


def command(directory: Path, *words: str) -> tuple[int, str]:
    """Run one command of the command line to its end."""
    path = directory / "command.log"
    path.write_bytes(b"")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = ForkedCommand(list(words), output=path, directory=directory, environment=environment)
    return process.wait(60), path.read_text()
