"""Hooks watch and never disturb: real functions, processes and HTTP requests."""

from __future__ import annotations

import http.server
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from insitu.errors import InternalError, OperatorError
from insitu.hooks import COMMON_FIELDS, EVENTS
from insitu_service.hooks.actions import CallFunction, PostJson, RunCommand, encode_event
from insitu_service.hooks.runner import Hook, HookRunner, HookStatus
from insitu_service.hooks.worker import QUEUE_EVENTS

TIMEOUT_SECONDS = 30.0


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        threading.Event().wait(0.002)


def counts(status: HookStatus) -> tuple[int, int, int, int]:
    return status.calls, status.failures, status.timeouts, status.dropped


def function_hook(
    function: Callable[[dict[str, Any]], object], event: str = "step", **kwargs: Any
) -> Hook:
    return Hook(kwargs.pop("name", "hook"), event, CallFunction(function), **kwargs)


def delivered(event: str, action: Any, payload: dict[str, Any], **kwargs: Any) -> HookStatus:
    runner = HookRunner([Hook("hook", event, action, **kwargs)])
    runner.emit(event, payload)
    assert runner.close(TIMEOUT_SECONDS)
    return runner.status()[0]


# The table


def test_events_are_named_once_and_described() -> None:
    assert list(EVENTS) == [
        "start", "step", "task_end", "evaluation", "checkpoint", "alert", "stop",
    ]  # fmt: skip
    for name, event in EVENTS.items():
        assert event.hook_name == f"on_{name}"
        assert event.meaning
        assert event.fields
        assert not event.fields.keys() & COMMON_FIELDS.keys()


# Python functions


def test_a_function_gets_the_payload_as_plain_values_of_its_own() -> None:
    seen: list[dict[str, Any]] = []

    def spoil(event: dict[str, Any]) -> None:
        seen.append(dict(event))
        event["scores"].clear()

    hooks = [function_hook(spoil, name=name) for name in ("a", "b")]
    runner = HookRunner(hooks, {"service": "digits"})
    runner.emit("step", {"step": 3, "loss": torch.tensor(0.5), "scores": {"a": torch.tensor(1)}})
    assert runner.close(TIMEOUT_SECONDS)
    for event in seen:
        assert abs(event.pop("time") - time.time()) < TIMEOUT_SECONDS
        assert event["loss"].__class__ is float
    first, second = seen
    assert first == second == {
        "event": "step", "service": "digits", "step": 3, "loss": 0.5, "scores": {},
    }  # fmt: skip


def test_a_payload_is_made_only_when_somebody_listens_and_not_in_the_caller() -> None:
    makers: list[str] = []

    def payload() -> dict[str, Any]:
        makers.append(threading.current_thread().name)
        return {"step": 1}

    runner = HookRunner([function_hook(lambda event: None, every=2)])
    assert runner.wants("step")
    assert not runner.wants("alert")
    for _ in range(5):
        runner.emit("step", payload)
        runner.emit("alert", payload)
    assert runner.close(TIMEOUT_SECONDS)
    assert makers == ["hook-hook"] * 2


def test_every_counts_events() -> None:
    seen: list[int] = []
    runner = HookRunner([function_hook(lambda event: seen.append(event["step"]), every=10)])
    for step in range(1, 36):
        runner.emit("step", {"step": step})
    assert runner.close(TIMEOUT_SECONDS)
    assert seen == [10, 20, 30]


def test_failures_are_counted_and_logged_once_a_kind(caplog: pytest.LogCaptureFixture) -> None:
    def fail(event: dict[str, Any]) -> None:
        if event["step"] == 7:
            sys.exit(3)
        raise ZeroDivisionError(event["step"])

    done: list[int] = []
    runner = HookRunner(
        [function_hook(fail), function_hook(lambda e: done.append(e["step"]), name="other")]
    )
    for step in range(10):
        runner.emit("step", {"step": step})
        wait_until(lambda step=step: len(done) == step + 1, "the other hook runs")  # type: ignore[misc]
    assert runner.close(TIMEOUT_SECONDS)
    assert counts(runner.status()[0]) == (10, 10, 0, 0)
    assert counts(runner.status()[1]) == (10, 0, 0, 0)
    assert caplog.text.count("ZeroDivisionError") == 1
    assert caplog.text.count("SystemExit") == 1


def test_a_slow_hook_drops_new_events_and_never_holds_emit(
    caplog: pytest.LogCaptureFixture,
) -> None:
    entered, go, seen = threading.Event(), threading.Event(), []

    def slow(event: dict[str, Any]) -> None:
        entered.set()
        assert go.wait(TIMEOUT_SECONDS)
        seen.append(event["step"])

    runner = HookRunner([function_hook(slow, timeout_seconds=TIMEOUT_SECONDS)])
    runner.emit("step", {"step": 0})
    assert entered.wait(TIMEOUT_SECONDS)
    for step in range(1, 1001):
        runner.emit("step", {"step": step})
    (status,) = runner.status()
    assert (status.calls, status.pending, status.dropped) == (1, QUEUE_EVENTS, 1000 - QUEUE_EVENTS)
    go.set()
    assert runner.close(TIMEOUT_SECONDS)
    assert seen == list(range(QUEUE_EVENTS + 1))
    assert caplog.text.count("is behind") == 1


def test_a_function_that_hangs_is_stuck_and_gets_no_second_thread(
    caplog: pytest.LogCaptureFixture,
) -> None:
    entered, go = threading.Event(), threading.Event()
    steps: list[int] = []

    def hang(event: dict[str, Any]) -> None:
        steps.append(event["step"])
        entered.set()
        assert go.wait(TIMEOUT_SECONDS)

    runner = HookRunner([function_hook(hang, timeout_seconds=0.01)])
    threads = threading.active_count()
    runner.emit("step", {"step": 0})
    assert entered.wait(TIMEOUT_SECONDS)
    wait_until(lambda: runner.status()[0].stuck, "the hook is overdue")
    for step in range(1, 101):
        runner.emit("step", {"step": step})
    assert counts(runner.status()[0]) == (1, 0, 1, 100)
    assert threading.active_count() == threads
    assert caplog.text.count("is stuck") == 1
    go.set()
    wait_until(lambda: not runner.status()[0].stuck, "it came back")
    runner.emit("step", {"step": 101})
    wait_until(lambda: steps == [0, 101], "it takes events again")
    assert runner.close(TIMEOUT_SECONDS)
    assert runner.status()[0].failures == 0


def test_close_is_bounded_and_counts_what_was_left(caplog: pytest.LogCaptureFixture) -> None:
    entered, go = threading.Event(), threading.Event()

    def hang(event: dict[str, Any]) -> None:
        entered.set()
        assert go.wait(TIMEOUT_SECONDS)

    runner = HookRunner([function_hook(hang, timeout_seconds=TIMEOUT_SECONDS)])
    for step in range(3):
        runner.emit("step", {"step": step})
    assert entered.wait(TIMEOUT_SECONDS)
    assert not runner.close(timeout_seconds=0.05)
    assert counts(runner.status()[0]) == (1, 0, 0, 2)
    assert "3 events left" in caplog.text
    runner.emit("step", {"step": 4})
    assert runner.status()[0].dropped == 3
    go.set()


def test_start_hooks_come_first_and_stop_hooks_last() -> None:
    order: list[str] = []
    started = threading.Event()

    def start(event: dict[str, Any]) -> None:
        assert started.wait(TIMEOUT_SECONDS)
        order.append("start")

    def note(event: dict[str, Any]) -> None:
        order.append(event["event"])

    runner = HookRunner([
        function_hook(note, "stop", name="z"),
        function_hook(note, "step", name="y"),
        function_hook(start, "start", name="x", timeout_seconds=TIMEOUT_SECONDS),
    ])  # fmt: skip
    for event in ("start", "step", "step", "stop"):
        runner.emit(event, {"step": 0})
    assert order == []
    started.set()
    assert runner.close(TIMEOUT_SECONDS)
    assert order == ["start", "step", "step", "stop"]


def test_a_start_hook_that_hangs_holds_the_others_only_until_its_timeout() -> None:
    go, seen = threading.Event(), []
    runner = HookRunner([
        function_hook(lambda e: go.wait(TIMEOUT_SECONDS), "start", name="a", timeout_seconds=0.01),
        function_hook(lambda e: seen.append(e["event"]), "step", name="b"),
        function_hook(lambda e: seen.append(e["event"]), "stop", name="c"),
    ])  # fmt: skip
    for event in ("start", "step", "stop"):
        runner.emit(event, {"step": 0})
    wait_until(lambda: seen == ["step", "stop"], "the others ran")
    assert runner.status()[0].stuck
    go.set()
    assert runner.close(TIMEOUT_SECONDS)


def test_emit_is_cheap_when_nobody_listens() -> None:
    runner = HookRunner([function_hook(lambda event: None, "alert")])

    def seconds_per_emit() -> float:
        began = time.perf_counter()
        for _ in range(10_000):
            runner.emit("step", {})
        return (time.perf_counter() - began) / 10_000

    assert min(seconds_per_emit() for _ in range(5)) < 5e-6
    assert runner.close(TIMEOUT_SECONDS)


def test_functions_are_found_by_name() -> None:
    action = CallFunction.named("json:dumps")
    assert delivered("step", action, {"step": 1}).calls == 1
    for name in ("no_such_module:f", "json:no_such", "json", "json:__name__"):
        with pytest.raises(OperatorError, match=name):
            CallFunction.named(name)


@pytest.mark.parametrize(
    "wrong", [{"event": "steps"}, {"every": 0}, {"timeout_seconds": 0}, {"timeout_seconds": -1}]
)
def test_wrong_hooks_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(OperatorError, match=str(next(iter(wrong.values())))):
        Hook(**{"name": "h", "event": "step", "action": CallFunction(print), **wrong})


def test_names_are_unique_and_events_known() -> None:
    hook = function_hook(print)
    with pytest.raises(OperatorError, match="one name"):
        HookRunner([hook, hook])
    runner = HookRunner([])
    with pytest.raises(InternalError, match="setp"):
        runner.emit("setp", {})


# Shell commands


@pytest.mark.parametrize("as_line", [True, False])
def test_a_command_gets_json_on_stdin_and_the_event_in_the_environment(
    tmp_path: Path, as_line: bool
) -> None:
    out = tmp_path / "out"
    line = f'cat > "{out}"; printf "|%s" "$INSITU_EVENT" >> "{out}"; echo chatter'
    command: str | list[str] = line if as_line else ["sh", "-c", line]
    status = delivered("task_end", RunCommand(command), {"task": "ü", "loss": float("inf")})
    assert counts(status) == (1, 0, 0, 0)
    text, _, event = out.read_text().rpartition("|")
    assert event == "task_end"
    payload = json.loads(text)
    assert (payload["task"], payload["loss"]) == ("ü", "Infinity")


def test_a_command_that_fails_is_reported_with_its_stderr(
    caplog: pytest.LogCaptureFixture,
) -> None:
    status = delivered("stop", RunCommand("echo broken disk >&2; exit 3"), {})
    assert counts(status) == (1, 1, 0, 0)
    assert "exit status 3" in caplog.text
    assert "broken disk" in caplog.text
    missing = delivered("stop", RunCommand(["/no/such/program"]), {})
    assert counts(missing) == (1, 1, 0, 0)
    assert "/no/such/program" in caplog.text


def test_a_command_that_hangs_is_killed_with_its_whole_group(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    line = f'sleep 1000 & echo $! $$ > "{pids}"; wait'
    status = delivered("alert", RunCommand(line), {}, timeout_seconds=0.5)
    assert counts(status) == (1, 0, 1, 0)
    for pid in map(int, pids.read_text().split()):
        wait_until(lambda pid=pid: not _alive(pid), f"process {pid} is gone")  # type: ignore[misc]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_a_command_that_does_not_read_or_leaves_a_child_does_not_keep_us() -> None:
    big = {"text": "x" * 1_000_000}
    status = delivered("alert", RunCommand("sleep 5 & exit 0"), big, timeout_seconds=4.0)
    assert counts(status) == (1, 0, 0, 0)


# HTTP


class Receiver(http.server.BaseHTTPRequestHandler):
    """Answers with the status that the path names; `/hang` does not answer."""

    received: ClassVar[list[tuple[str, str, Any]]]
    go: ClassVar[threading.Event]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.received.append((self.path, self.headers["Content-Type"], json.loads(body)))
        if self.path == "/hang":
            self.go.wait(TIMEOUT_SECONDS)
            return
        self.send_response(int(self.path[1:]))
        self.send_header("Location", "/200")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST  # noqa: N815

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, type[Receiver]]]:
    class Handler(Receiver):
        received: ClassVar = []
        go = threading.Event()

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_address[1]}", Handler
    Handler.go.set()
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def test_a_post_carries_the_event(server: tuple[str, type[Receiver]]) -> None:
    url, handler = server
    status = delivered("alert", PostJson(f"{url}/204"), {"kind": "x", "loss": float("nan")})
    assert counts(status) == (1, 0, 0, 0)
    ((path, content_type, payload),) = handler.received
    assert (path, content_type) == ("/204", "application/json")
    assert (payload["event"], payload["kind"], payload["loss"]) == ("alert", "x", "NaN")


@pytest.mark.parametrize("status_code", [302, 404, 500])
def test_any_answer_but_success_is_a_failure(
    server: tuple[str, type[Receiver]], status_code: int, caplog: pytest.LogCaptureFixture
) -> None:
    url, handler = server
    status = delivered("alert", PostJson(f"{url}/{status_code}"), {})
    assert counts(status) == (1, 1, 0, 0)
    assert f"HTTP status {status_code}" in caplog.text
    assert len(handler.received) == 1  # a redirect is not followed


def test_a_server_that_hangs_or_is_absent(
    server: tuple[str, type[Receiver]], caplog: pytest.LogCaptureFixture
) -> None:
    url, _ = server
    status = delivered("alert", PostJson(f"{url}/hang"), {}, timeout_seconds=0.1)
    assert counts(status) == (1, 0, 1, 0)
    status = delivered("alert", PostJson("http://127.0.0.1:1/x"), {})
    assert counts(status) == (1, 1, 0, 0)
    assert "no connection" in caplog.text
    with pytest.raises(OperatorError, match="file:"):
        PostJson("file:///etc/passwd")


def test_encoded_events_are_strict_json() -> None:
    event = {"a": [float("-inf"), (1, None)], "b": {"c": float("nan")}, "d": Path("/x")}
    text = encode_event(event).decode()
    assert json.loads(text, parse_constant=pytest.fail) == {
        "a": ["-Infinity", [1, None]], "b": {"c": "NaN"}, "d": "/x",
    }  # fmt: skip
