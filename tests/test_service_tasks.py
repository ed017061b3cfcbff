"""Tasks in a running service: who is in which, when they end, and what is measured then."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon import Daemon, wait_for
from served import arrays, books_balance, config, producer, push, wait_log


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path, config(tmp_path)) as daemon:
        yield daemon.start()


def ends(daemon: Daemon) -> list[str]:
    """What ended, in order: task and samples."""
    lines = (line["message"].split() for line in daemon.log_lines())
    return [f"{w[1]} {w[-2]}" for w in lines if w[0] == "task" and w[2] == "ended"]


def task(daemon: Daemon, name: str) -> dict[str, Any]:
    tasks = daemon.status().get("tasks", [])
    return next((entry for entry in tasks if entry["name"] == name), {})


def test_a_task_ends_when_its_last_producer_has_gone_on(daemon: Daemon) -> None:
    """Two producers, a task that comes back, and a drain that ends what is open."""
    with (
        producer(daemon, "rank-0", linger_seconds=60) as one,
        producer(daemon, "rank-1", linger_seconds=60) as two,
    ):
        for name, start in (("cold", 1000), ("hot", 1040)):
            assert one.push(arrays(start, start + 40), task=name, evaluate=True)
        push(one, 0, 40, task="cold")
        one.flush(60)
        push(two, 40, 80, task="cold")
        two.flush(60)
        push(one, 80, 120, task="hot")
        one.flush(60)
        wait_for(lambda: task(daemon, "hot").get("samples") == 40, "the samples of hot")
        daemon.wait_metric("insitu_trained_samples_total", 120, source="fresh")
        assert ends(daemon) == []  # rank-1 is still in the cold
        assert task(daemon, "cold")["state"] == "open"

        push(two, 120, 160, task="hot")
        wait_for(lambda: ends(daemon) == ["cold 80"], "the cold to end")
        assert task(daemon, "cold") == {
            "name": "cold",
            "visit": 1,
            "samples": 80,
            "state": "learned",
        }

        push(one, 160, 200, task="cold")  # the cold comes back, a second visit
        push(two, 200, 240, task="cold")
        wait_for(lambda: ends(daemon) == ["cold 80", "hot 80"], "the hot to end")
        two.flush(60)
        one.flush(60)
        code, answer = daemon.post("drain")
        assert (code, answer["result"]) == (200, {"step": 30, "pending_samples": 0})
        assert ends(daemon) == ["cold 80", "hot 80", "cold 80"]
        assert daemon.metric("insitu_ended_tasks_total") == 3
        check_matrix(daemon)
        assert books_balance(daemon)
    assert daemon.stop() == 0


def check_matrix(daemon: Daemon) -> None:
    """One row for each task that ended, one column for each that has probes."""
    evaluation = daemon.status()["evaluation"]
    assert (evaluation["metric"], evaluation["higher_is_better"]) == ("accuracy", True)
    assert evaluation["tasks"] == ["cold", "hot"]
    assert evaluation["ended"] == ["cold", "hot", "cold"]
    matrix = evaluation["matrix"]
    assert [len(row) for row in matrix] == [2, 2, 2]
    assert all(0 <= value <= 1 for row in matrix for value in row)
    assert matrix[-1][0] > 0.5  # four clouds that lie apart are easy, and chance is a quarter
    for index, name in enumerate(evaluation["tasks"]):
        score = daemon.metric("insitu_evaluation_score", task=name, figure="accuracy")
        assert score == pytest.approx(matrix[-1][index])
        assert daemon.metric("insitu_evaluation_probe_samples", task=name) == 40


def test_a_producer_that_leaves_ends_its_task_and_probes_wait_for_nobody(daemon: Daemon) -> None:
    """BYE ends a visit; probes that come later are measured when asked."""
    with producer(daemon, linger_seconds=60) as source:
        push(source, 0, 84, task="only")
    wait_log(daemon, "task only ended after 84 samples")
    with producer(daemon, "rank-1", linger_seconds=60) as late:
        assert late.push(arrays(1000, 1020), task="only", evaluate=True)
        assert late.push(arrays(1020, 1030), task="other", evaluate=True)
        late.flush(60)
    code, answer = daemon.post("evaluate")
    assert code == 200
    assert sorted(answer["result"]["scores"]) == ["only", "other"]
    assert daemon.metric("insitu_trained_samples_total", source="fresh") == 84
    assert books_balance(daemon)


def test_a_stream_that_has_ended_costs_next_to_nothing(daemon: Daemon) -> None:
    """The learner rests between two streams, and takes the next one up at once."""
    with producer(daemon, linger_seconds=60) as source:
        push(source, 0, 80)
    wait_log(daemon, "has ended its stream")
    daemon.wait_metric("insitu_trained_samples_total", 80, source="fresh")
    began, spent = time.monotonic(), processor_seconds(daemon)
    wait_for(lambda: time.monotonic() > began + 1.5, "a while to measure")
    assert processor_seconds(daemon) - spent < 0.3  # a learner that spins takes 1.5
    with producer(daemon, "rank-1", linger_seconds=60) as source:
        push(source, 80, 160)
    daemon.wait_metric("insitu_trained_samples_total", 160, source="fresh")


def processor_seconds(daemon: Daemon) -> float:
    """User and system time of the process so far."""
    assert daemon.process is not None
    fields = Path(f"/proc/{daemon.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
