"""HTTP, over real sockets: metrics, health, status, and control that reaches a queue."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import httpx
import pytest

from insitu.errors import InternalError, OperatorError
from insitu_service.commands import COMMANDS, CommandQueue
from insitu_service.http.application import MAX_BODY_BYTES, create_app, finite
from insitu_service.http.server import HttpServer, PortError, bind_listener, serve_http


class Service:
    """What the application reads and posts to, with nothing behind it but a queue."""

    def __init__(self, token: str | None = None) -> None:
        self.commands = CommandQueue(capacity_commands=4)
        self.problems: list[str] = []
        self.living = True
        self.state: dict[str, Any] = {"service": {"name": "<digits>", "state": "running"}}
        self.server = serve_http(
            create_app(
                exposition=lambda accept: (f"# asked for {accept}".encode(), "text/plain"),
                status=lambda: self.state,
                ready=lambda: self.problems,
                alive=lambda: self.living,
                post=self.commands.post,
                token=token,
            ),
            "127.0.0.1",
            0,
        )
        self.client = httpx.Client(base_url=self.server.url, trust_env=False)

    def settle(self, result: dict[str, Any] | Exception) -> threading.Thread:
        """Carry out the next command from another thread, as the learner does."""

        def work() -> None:
            commands = []
            while not commands:
                commands = self.commands.drain()
                time.sleep(0.002)
            if isinstance(result, Exception):
                commands[0].done.set_exception(result)
            else:
                commands[0].done.set_result({**result, **commands[0].arguments})

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        self.client.close()
        self.server.close()


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    yield made
    made.close()


def test_metrics_are_given_as_asked_for(service: Service) -> None:
    answer = service.client.get("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert answer.text == "# asked for application/openmetrics-text"
    assert answer.headers["content-type"] == "text/plain"


def test_health(service: Service) -> None:
    assert service.client.get("/livez").status_code == 200
    assert service.client.get("/readyz").json() == {"ready": True, "problems": []}
    service.problems = ["the ring is full"]
    service.living = False
    assert service.client.get("/livez").status_code == 503
    answer = service.client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["problems"] == ["the ring is full"]


def test_status_is_json_whatever_the_figures_are(service: Service) -> None:
    service.state = {"trainer": {"loss": float("nan"), "scores": {"a": float("inf")}, "step": 3}}
    answer = service.client.get("/status")
    assert json.loads(answer.text) == {"trainer": {"loss": None, "scores": {"a": None}, "step": 3}}
    assert finite((1.0, {2: float("-inf")})) == [1.0, {"2": None}]


def test_the_page_escapes_names_and_shows_figures(service: Service) -> None:
    service.state["producers"] = [{"id": "<script>", "state": "live", "rows": 1234}]
    service.problems = ["<b>"]
    text = service.client.get("/").text
    assert "&lt;digits&gt;" in text
    assert "&lt;script&gt; (live, 1,234 rows)" in text
    assert "<script" not in text
    assert "&lt;b&gt;" in text
    for link in ("/metrics", "/status", "/livez", "/readyz"):
        assert f'href="{link}"' in text
        assert service.client.get(link).status_code in (200, 503)


def test_a_command_is_carried_out(service: Service) -> None:
    service.settle({"step": 7})
    answer = service.client.post("/control/stop", json={"drain": False})
    assert answer.status_code == 200
    assert answer.json() == {
        "command": "stop", "state": "done", "result": {"step": 7, "drain": False},
    }  # fmt: skip


def test_a_caller_that_does_not_wait_cancels_nothing(service: Service) -> None:
    answer = service.client.post("/control/checkpoint?timeout=0")
    assert answer.status_code == 202
    assert answer.json()["state"] == "pending"
    (command,) = service.commands.drain()
    assert not command.done.cancelled()
    command.done.set_exception(OperatorError("nobody hears this"))
    assert service.client.get("/livez").status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/control/chekpoint", b"", 404, "did you mean checkpoint?"),
        ("/control/checkpoint", b"[]", 400, "not an object"),
        ("/control/checkpoint", b"{", 400, "not JSON"),
        ("/control/checkpoint", b"[" * 50_000, 400, "not JSON"),
        ("/control/checkpoint", b"\xff", 400, "not JSON"),
        ("/control/checkpoint", b'{"a": 1}', 422, "no argument 'a'"),
        ("/control/stop", b'{"drain": 1}', 422, "drain is 1, not bool"),
        ("/control/stop", b'{"drainn": true}', 422, "did you mean drain?"),
        ("/control/stop?timeout=nan", b"", 422, "timeout is 'nan'"),
        ("/control/stop?timeout=-1", b"", 422, "0 to 3600"),
        ("/control/stop", b" " * (MAX_BODY_BYTES + 1), 413, "too long"),
        ("/nowhere", b"", 404, "GET /metrics"),
        ("/status", b"", 405, "Method Not Allowed"),
    ],
)
def test_wrong_requests_are_named(
    service: Service, path: str, body: bytes, status: int, words: str
) -> None:
    answer = service.client.post(path, content=body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["fault"] == "operator"
    assert words in json.dumps(error)
    assert service.commands.drain() == []


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OperatorError("no directory", remedy="set checkpoint.directory"), 409),
        (InternalError("broken"), 500),
        (ValueError("odd"), 500),
    ],
)
def test_a_command_that_fails_says_why(service: Service, error: Exception, status: int) -> None:
    service.settle(error)
    answer = service.client.post("/control/checkpoint")
    assert answer.status_code == status
    assert getattr(error, "message", str(error)) in answer.json()["error"]["message"]


def test_a_full_queue_and_a_stopped_service_refuse(service: Service) -> None:
    for _ in range(4):
        assert service.client.post("/control/evaluate?timeout=0").status_code == 202
    assert service.client.post("/control/evaluate").status_code == 503
    assert len(service.commands.close()) == 4
    answer = service.client.post("/control/evaluate")
    assert answer.status_code == 503
    assert "too late" in answer.json()["error"]["message"]


def test_a_web_page_may_not_control(service: Service) -> None:
    headers = {"Origin": "http://elsewhere"}
    assert service.client.post("/control/stop", headers=headers).status_code == 403
    assert service.commands.drain() == []


def test_the_token_guards_control_alone() -> None:
    service = Service(token="s3cret")
    try:
        assert service.client.get("/metrics").status_code == 200
        for wrong in ({}, {"Authorization": "Bearer s3cre"}, {"Authorization": "Basic s3cret"}):
            assert service.client.post("/control/stop", headers=wrong).status_code == 401
        assert service.commands.drain() == []
        right = {"Authorization": "Bearer s3cret", "Origin": "http://elsewhere"}
        assert service.client.post("/control/stop?timeout=0", headers=right).status_code == 202
    finally:
        service.close()


# the server


def test_a_port_in_use_is_found_before_anything_starts() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PortError, match=rf"{port}.*in use.*--set http\.port"):
            bind_listener("127.0.0.1", port)
    with bind_listener("127.0.0.1", 0) as mine, pytest.raises(PortError):
        bind_listener("127.0.0.1", mine.getsockname()[1])


def test_a_host_that_is_not_here() -> None:
    with pytest.raises(PortError, match=r"192\.0\.2\.1"):
        bind_listener("192.0.2.1", 0)


def test_closing_ends_the_thread_and_frees_the_port(service: Service) -> None:
    assert service.client.get("/livez").status_code == 200
    port = service.server.port
    before = set(threading.enumerate())
    service.server.close()
    service.server.close()
    assert "insitu-http" in {thread.name for thread in before - set(threading.enumerate())}
    with bind_listener("127.0.0.1", port):
        pass


def test_an_idle_server_uses_little_of_a_core(service: Service) -> None:
    assert service.client.get("/metrics").status_code == 200  # warm
    cpu, wall = time.process_time(), time.monotonic()
    threading.Event().wait(1.0)  # the figure is per second of doing nothing
    share = (time.process_time() - cpu) / (time.monotonic() - wall)
    assert share < 0.02


# the queue


def test_the_queue_keeps_order_and_wakes_the_learner() -> None:
    woken: list[str] = []
    queue = CommandQueue(on_post=lambda: woken.append("post"))
    first: Future[dict[str, Any]] = queue.post("checkpoint")
    queue.post("stop")
    assert first.cancel()
    assert [command.name for command in queue.drain()] == ["stop"]
    assert queue.drain() == []
    assert woken == ["post", "post"]


def test_every_thread_may_post() -> None:
    queue = CommandQueue(capacity_commands=1000)
    threads = [
        threading.Thread(target=lambda: [queue.post("evaluate") for _ in range(100)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    taken = 0
    while any(thread.is_alive() for thread in threads):
        taken += len(queue.drain())
    assert taken + len(queue.drain()) == 800


def test_arguments_have_defaults() -> None:
    assert COMMANDS["stop"].check({}) == {"drain": True}


def test_the_handle_is_the_documented_one(service: Service) -> None:
    assert isinstance(service.server, HttpServer)
    assert service.server.url == f"http://127.0.0.1:{service.server.port}"


def test_a_caller_that_leaves_within_its_body_is_no_fault_of_ours(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", service.server.port), timeout=10) as line:
            line.sendall(b"POST /control/stop HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{")
    assert service.client.get("/livez").status_code == 200
    service.close()  # answers what is under way first
    assert "exception" not in caplog.text.lower()
    assert service.commands.drain() == []
