"""Boundaries that no producer tells of, in a running service: detected, and commanded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from daemon import Daemon, wait_for
from insitu.checkpoint import list_checkpoints, read_checkpoint
from insitu.config import ConfigError, check_config
from insitu.errors import OperatorError
from insitu_producers import Producer
from insitu_service.cli.control import control_commands
from insitu_service.learning.building import build_trainer
from served import CLASSES, arrays, books_balance, config, producer, push, wait_log

DETECTION: list[dict[str, Any]] = [{"name": "adwin", "cooldown_steps": 30}]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    hooks = [{"on": "task_end", "shell": f"cat >> {tmp_path}/ends; echo >> {tmp_path}/ends"}]
    sections = config(tmp_path, detection=DETECTION, hooks=hooks)
    with Daemon(tmp_path, sections) as daemon:
        yield daemon.start()


def push_changed(target: Producer, start: int, stop: int, rows: int = 20) -> None:
    """As `push`, with every label another."""
    for begin in range(start, stop, rows):
        given = arrays(begin, begin + rows)
        changed = {"x": given["x"], "y": (given["y"] + 2) % CLASSES}
        assert target.push(changed, task="flow", sample_ids=np.arange(begin, begin + rows))


def ends(daemon: Daemon) -> list[dict[str, Any]]:
    path = daemon.directory / "ends"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.strip()]


def test_a_change_that_nobody_told_of_ends_the_task(daemon: Daemon) -> None:
    with producer(daemon, linger_seconds=60) as source:
        push(source, 0, 1000, task="flow")
        assert source.push(arrays(5000, 5020), task="flow", evaluate=True)
        push_changed(source, 1000, 1600)
        source.flush(60)
        wait_for(lambda: len(ends(daemon)) == 1, f"the end of a task, see {daemon.log_path}")
        (end,) = ends(daemon)
        assert (end["task"], end["ended_by"]) == ("flow", "detection")
        assert end["detectors"] == ["adwin"]
        assert 1000 < end["samples"] <= 1400
        daemon.wait_metric("insitu_trained_samples_total", 1600, source="fresh")
        detected = "insitu_detected_boundaries_total"
        assert daemon.metric(detected, detector="adwin") == 1
        assert daemon.metric("insitu_last_boundary_timestamp_seconds") > 1e9
        assert daemon.metric("insitu_tasks") == 2
        wait_log(daemon, "adwin: the stream has changed")
        evaluation = daemon.status()["evaluation"]
        assert evaluation["ended"] == ["flow"]
    wait_log(daemon, "task flow#2 ended")  # the producer has left, so its newest segment is over
    wait_for(lambda: len(ends(daemon)) == 2, "the second end")
    assert ends(daemon)[1]["ended_by"] == "producer"
    assert books_balance(daemon)


def test_a_command_ends_what_is_in_progress_and_a_resume_knows_of_it(daemon: Daemon) -> None:
    code, answer = daemon.post("end_task")
    assert (code, answer["result"]) == (200, {"tasks": []})
    with producer(daemon, linger_seconds=60) as source:
        push(source, 0, 80, task="flow")
        source.flush(60)
        daemon.wait_metric("insitu_trained_samples_total", 80, source="fresh")
        assert daemon.post("end_task")[1]["result"] == {"tasks": ["flow"]}
        assert daemon.post("end_task")[1]["result"] == {"tasks": []}
        push(source, 80, 160, task="flow")
        source.flush(60)
        daemon.wait_metric("insitu_trained_samples_total", 160, source="fresh")
        assert daemon.post("end_task")[1]["result"] == {"tasks": ["flow#2"]}
        wait_for(lambda: len(ends(daemon)) == 2, "both ends")
        assert [end["ended_by"] for end in ends(daemon)] == ["command", "command"]
        assert [end["samples"] for end in ends(daemon)] == [80, 80]
        detected = "insitu_detected_boundaries_total"
        assert daemon.metric(detected, detector="adwin") == 0
    assert daemon.stop() == 0
    newest = list_checkpoints(Path(daemon.config["checkpoint"]["directory"]))[-1]
    state = read_checkpoint(newest)[0]["trainer"]
    assert state["segments"]["boundaries"] == 2
    assert set(state["watch"]["detectors"]) == {"adwin"}

    daemon.start("--resume")
    with producer(daemon, "rank-1", linger_seconds=60) as source:
        push(source, 160, 240, task="flow")
    wait_log(daemon, "task flow#3 ended after 80 samples")


def test_the_command_line_has_it_as_words_with_a_dash() -> None:
    assert "end-task" in {command.name for command in control_commands()}


def problems(tmp_path: Path, detection: list[dict[str, Any]]) -> str:
    with pytest.raises(ConfigError) as caught:
        check_config(config(tmp_path, detection=detection))
    return str(caught.value)


def test_a_wrong_configuration_is_refused_by_name(tmp_path: Path) -> None:
    assert "page_hinkley" in problems(tmp_path, [{"name": "page_hinckley"}])
    assert "second time" in problems(tmp_path, [{"name": "adwin"}, {"name": "adwin"}])
    assert "confidence" in problems(tmp_path, [{"name": "adwin", "options": {"confidence": 2}}])
    assert "cooldown_steps" in problems(tmp_path, [{"name": "adwin", "cooldown_steps": -1}])


def test_heads_by_task_and_detection_are_refused_before_the_start(tmp_path: Path) -> None:
    options = {"input": "x", "target": "y", "heads": 3, "classes": CLASSES}
    multi_head = {"name": "multi_head", "options": options}
    sections = config(tmp_path, objective=multi_head, detection=DETECTION)
    with pytest.raises(OperatorError, match="'multi_head' finds the head of a row by its task"):
        build_trainer(check_config(sections), torch.device("cpu"))
    build_trainer(check_config({**sections, "detection": []}), torch.device("cpu"))
