"""A service whose disk, model or native code fails it: it stops taking, tells, and comes back."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

from daemon import Daemon, wait_for
from served import books_balance, config, producer, push

ALERT = 'insitu_alerts_total{kind="ingest_stopped"} 1.0'

MINE = """
import ctypes, os, threading
from insitu.objectives.classify import Classify

def sleep():
    threading.Event().wait()

def sleep_with_the_lock():
    ctypes.PyDLL(None).sleep(1000)

class Hanging(Classify):
    how = staticmethod(sleep)
    steps = 0
    def losses(self, outputs, batch):
        self.steps += 1
        if self.steps == 4 and os.environ.get("HANGS"):
            self.how()
        return super().losses(outputs, batch)

class HangingHard(Hanging):
    how = staticmethod(sleep_with_the_lock)
"""


def daemon_in(directory: Path, **sections: Any) -> Daemon:
    (directory / "mine.py").write_text(MINE)
    log = {"directory": str(directory / "log"), **sections.pop("log", {})}
    return Daemon(directory, config(directory, log=log, **sections))


def hanging(directory: Path, name: str) -> Daemon:
    objective = {
        "name": f"mine:{name}",
        "options": {"input": "x", "target": "y", "classes": 4},
    }
    return daemon_in(directory, objective=objective, service={"hang_seconds": 3})


def check_went_on(daemon: Daemon) -> None:
    """After a hang, and a new start: nothing was lost."""
    wait_for(lambda: daemon.metric("insitu_steps_total") >= 12, "all steps")
    assert daemon.metric("insitu_lost_samples_total") == 0
    wait_for(lambda: books_balance(daemon), "the books to balance")
    assert daemon.stop() == 0


def test_a_learner_that_hangs_ends_the_process_with_its_stacks(tmp_path: Path) -> None:
    with hanging(tmp_path, "Hanging") as daemon:
        daemon.start(environment={"HANGS": "1"})
        with producer(daemon, linger_seconds=1) as source:
            push(source, 0, 96)
            source.flush(level="accepted", timeout_seconds=30)
        assert daemon.wait() == 8
        assert "hanging: the learner thread for" in daemon.log()
        assert "in sleep\n" in daemon.log()
        daemon.start("--resume")
        assert daemon.metric("insitu_resumed_samples") == 96
        check_went_on(daemon)


def test_native_code_that_keeps_the_lock_ends_the_process_too(tmp_path: Path) -> None:
    with hanging(tmp_path, "HangingHard") as daemon:
        daemon.start(environment={"HANGS": "1"})
        with producer(daemon, linger_seconds=60) as source:
            push(source, 0, 96)
            assert daemon.wait() == 1
            assert "in sleep_with_the_lock" in daemon.log()
            daemon.start("--resume")
            source.flush(level="accepted", timeout_seconds=30)
        check_went_on(daemon)


def test_a_disk_without_room_stops_credit_until_there_is_some(tmp_path: Path) -> None:
    """The limit of a file's size stands for a full disk: it can be set from outside, and lifted."""
    log = {"segment_bytes": 16 << 20, "ack_level": "durable"}
    with daemon_in(tmp_path, log=log) as daemon:
        daemon.start()
        assert daemon.process is not None
        before = resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE)
        with producer(daemon, linger_seconds=60) as source:
            push(source, 0, 40)
            source.flush(level="durable", timeout_seconds=30)
            resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (4096, before[1]))
            push(source, 40, 80)
            reason = wait_for(
                lambda: "File too large" in daemon.get("/readyz")[1] and daemon.get("/readyz"),
                "the service to be unready",
            )
            assert reason[0] == 503
            assert "File too large" in reason[1]
            assert daemon.metric("insitu_ingest_stopped") == 1
            wait_for(lambda: ALERT in daemon.get("/metrics")[1], "the alert")
            assert daemon.get("/livez")[0] == 200
            resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, before)
            source.flush(level="durable", timeout_seconds=30)
            wait_for(lambda: daemon.get("/readyz")[0] == 200, "the service to be ready again")
        daemon.wait_metric("insitu_steps_total", 10)
        assert books_balance(daemon)
        assert daemon.stop() == 0
