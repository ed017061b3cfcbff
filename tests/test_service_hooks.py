"""Hooks of a real run: functions, commands and requests for all events; bad ones stop nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from daemon import Daemon, wait_for
from insitu.hooks import COMMON_FIELDS, EVENTS
from served import books_balance, config, producer, push

MINE = """
import json, os, threading
import torch
from insitu.objectives.classify import Classify

def remember(event):
    with open(os.environ["SEEN"], "a") as file:
        file.write(json.dumps(event) + chr(10))

def raises(event):
    raise ValueError("a hook of mine is broken")

def hangs(event):
    threading.Event().wait()

class Diverging(Classify):
    steps = 0
    def losses(self, outputs, batch):
        self.steps += torch.is_grad_enabled()  # probes may be examined at any time
        return super().losses(outputs, batch) * (float("nan") if self.steps == 3 else 1.0)
"""


class Listener:
    """A web server that remembers what was posted to it."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        events = self.events

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                events.append(json.loads(self.rfile.read(length)))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


def run(directory: Path, hooks: list[dict[str, Any]]) -> tuple[Daemon, dict[str, str]]:
    """A service whose third step is not finite, with these hooks."""
    (directory / "mine.py").write_text(MINE)
    options = {"input": "x", "target": "y", "classes": 4}
    sections = config(
        directory,
        hooks=hooks,  # type: ignore[arg-type]
        objective={"name": "mine:Diverging", "options": options},
    )
    return Daemon(directory, sections), {"SEEN": str(directory / "python")}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_every_event_reaches_functions_commands_and_requests(
    tmp_path: Path, listener: Listener
) -> None:
    shell = f"event=$(cat); printf '%s\\n' \"$event\" >> {tmp_path}/shell"
    hooks = [
        {"on": event} | action
        for event in EVENTS
        for action in ({"python": "mine:remember"}, {"shell": shell}, {"post": listener.url})
    ]
    daemon, environment = run(tmp_path, hooks)
    with daemon:
        daemon.start(environment=environment)
        with producer(daemon, linger_seconds=60) as source:
            push(source, 0, 40, task="only")
            push(source, 1000, 1010, task="only", evaluate=True)
        daemon.wait_metric("insitu_ended_tasks_total", 1)
        assert daemon.post("evaluate")[0] == 200
        assert daemon.stop() == 0
    by_function, by_command = lines(tmp_path / "python"), lines(tmp_path / "shell")
    for heard in (by_function, by_command, listener.events):
        check_events(heard)
    assert {event["path"] for event in by_function if event["event"] == "checkpoint"} == {
        str(tmp_path / "checkpoints" / "checkpoint-000000000005")
    }


def check_events(heard: list[dict[str, Any]]) -> None:
    """A whole life: what came, in which order, with which fields."""
    by_name = {name: [e for e in heard if e["event"] == name] for name in EVENTS}
    counts = {name: len(events) for name, events in by_name.items()}
    once = ("start", "task_end", "evaluation", "checkpoint", "alert", "stop")
    assert counts == dict.fromkeys(once, 1) | {"step": 5}
    assert by_name["evaluation"][0]["scores"] == by_name["task_end"][0]["scores"]
    assert heard[0]["event"] == "start"
    assert heard[-1]["event"] == "stop"
    for name, events in by_name.items():
        for event in events:
            assert event.keys() == COMMON_FIELDS.keys() | EVENTS[name].fields.keys()
    assert [event["step"] for event in by_name["step"]] == [1, 2, 3, 4, 5]
    assert [event["skipped"] for event in by_name["step"]] == [False, False, True, False, False]
    assert str(by_name["step"][2]["loss"]).lower() == "nan"  # a string where it came as JSON
    (alert,) = by_name["alert"]
    assert (alert["kind"], alert["step"]) == ("step_skipped", 3)
    assert by_name["task_end"][0]["task"] == "only"
    assert "accuracy" in by_name["task_end"][0]["scores"]["only"]
    assert by_name["stop"][0]["failure"] is None


def test_bad_hooks_stop_nothing_and_are_counted(tmp_path: Path) -> None:
    hooks = [
        {"on": "step", "python": "mine:raises"},
        {"on": "step", "python": "mine:hangs", "timeout_seconds": 0.3},
        {"on": "step", "shell": "sleep 600", "timeout_seconds": 0.3, "every": 40},
        {"on": "step", "shell": "exit 3"},
        {"on": "step", "post": "http://127.0.0.1:9/nobody"},
        {"on": "start", "shell": "sleep 600", "timeout_seconds": 0.3},
        {"on": "stop", "python": "mine:hangs", "timeout_seconds": 0.3},
    ]
    daemon, environment = run(tmp_path, hooks)
    with daemon:
        daemon.start(environment=environment)
        with producer(daemon, linger_seconds=60) as source:
            push(source, 0, 800)
        daemon.wait_metric("insitu_steps_total", 100)
        names = [f"{index}-{hook['on']}" for index, hook in enumerate(hooks)]

        def count(metric: str, index: int) -> float:
            return daemon.metric(f"insitu_hook_{metric}_total", hook=names[index])

        for index in (0, 3, 4):
            wait_for(lambda index=index: count("failures", index) > 0, names[index])  # type: ignore[misc]
        for index in (1, 2, 5):
            wait_for(lambda index=index: count("timeouts", index) > 0, names[index])  # type: ignore[misc]
        assert count("dropped", 1) > 0  # it is stuck, and its queue is short
        assert daemon.metric("insitu_trained_samples_total", source="fresh") == 792
        assert daemon.metric("insitu_alerts_total", kind="step_skipped") == 1
        assert books_balance(daemon)
        complaints = [n for n in daemon.log_lines() if "a hook of mine is broken" in json.dumps(n)]
        assert len(complaints) == 1
        assert daemon.stop() == 0
