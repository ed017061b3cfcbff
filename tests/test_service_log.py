"""The stream log in a real service: killed, powered off, filled up; nothing lost, nothing twice."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from daemon import Daemon, wait_for
from insitu.checkpoint import list_checkpoints, read_checkpoint
from served import books_balance, config, producer, push
from test_service_resume import differences


def daemon_in(directory: Path, **sections: Any) -> Daemon:
    directory.mkdir(exist_ok=True)
    log = {"directory": str(directory / "log"), **sections.pop("log", {})}
    return Daemon(directory, config(directory, log=log, **sections))


def newest(daemon: Daemon) -> Path:
    return list_checkpoints(Path(daemon.config["checkpoint"]["directory"]))[-1]


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
