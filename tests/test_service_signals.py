"""What signals do to a service, what systemd hears of it, and how it ends: real processes."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
import zmq

from daemon import Daemon, wait_for
from insitu.checkpoint import list_checkpoints, read_checkpoint
from insitu.wire.codec import decode, encode
from insitu.wire.messages import PROTOCOL_VERSION, Drain, Hello, Message, Welcome
from served import SCHEMA, books_balance, config, producer, push, wait_log

#: objectives that a user might write: slow, broken, told by insitu's own error, not a number
MINE = '''
import time
from insitu.errors import OperatorError
from insitu.objectives.classify import Classify

class Slow(Classify):
    """Every step waits until a file appears beside the service, or a little."""
    def losses(self, outputs, batch):
        time.sleep(0.25)
        return super().losses(outputs, batch)

class Broken(Classify):
    def losses(self, outputs, batch):
        return self.no_such_attribute

class Told(Classify):
    def losses(self, outputs, batch):
        raise OperatorError("this field is not calibrated")

class Diverging(Classify):
    steps = 0
    def losses(self, outputs, batch):
        self.steps += 1
        return super().losses(outputs, batch) * (float("nan") if self.steps == 3 else 1.0)
'''


def daemon_with(directory: Path, objective: str, **sections: object) -> Daemon:
    (directory / "mine.py").write_text(MINE)
    options = {"input": "x", "target": "y", "classes": 4}
    chosen = {"name": objective, "options": options}
    return Daemon(directory, config(directory, objective=chosen, **sections))  # type: ignore[arg-type]


class Manager:
    """Listens where a service manager would: a real datagram socket."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)
        self.lines: list[str] = []
        self.environment = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "200000"}

    def heard(self, line: str) -> bool:
        try:
            while True:
                self.lines += self._socket.recv(4096).decode().splitlines()
        except BlockingIOError:
            return any(line in heard for heard in self.lines)

    def close(self) -> None:
        self._socket.close()


class Peer:
    """A bare socket with a session: what every producer is told, unfiltered."""

    def __init__(self, endpoint: str) -> None:
        self._socket = zmq.Context.instance().socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(endpoint)
        hello = Hello(
            PROTOCOL_VERSION, "peer", 1, "small", SCHEMA, SCHEMA.crc32, ("crc32",),
            "host", "boot", "", 1, 0,
        )  # fmt: skip
        self._socket.send_multipart(encode(hello))

    def close(self) -> None:
        self._socket.close()

    def hears(self, kind: type[Message]) -> Message:
        """The next message of this kind."""
        while self._socket.poll(20_000):
            message = decode(self._socket.recv_multipart())
            if isinstance(message, kind):
                return message
        raise AssertionError(f"no {kind.__name__} came")


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path / "notify")
    yield manager
    manager.close()


def test_signals_in_a_life(tmp_path: Path, manager: Manager) -> None:
    with Daemon(tmp_path, config(tmp_path)) as daemon:
        daemon.start(environment=manager.environment)
        wait_for(lambda: manager.heard("READY=1"), "READY=1")
        wait_for(lambda: manager.heard("WATCHDOG=1"), "WATCHDOG=1")
        assert not manager.heard("STOPPING=1")
        with producer(daemon, linger_seconds=0) as source:
            push(source, 0, 84)
            source.flush(60)
            daemon.wait_metric("insitu_trained_samples_total", 80, source="fresh")

            daemon.signal(signal.SIGUSR1)
            daemon.wait_metric("insitu_checkpoints_total", 1)
            (path,) = list_checkpoints(tmp_path / "checkpoints")
            assert read_checkpoint(path)[0]["trainer"]["steps"] == 10

            daemon.signal(signal.SIGQUIT)
            # the stacks come line by line
            wait_for(lambda: "most recent call first" in daemon.log(), "stacks on stderr")
            wait_for(lambda: "learner.py" in daemon.log(), "the learner's stack")

            check_reloading(daemon, manager)
            push(source, 84, 92)  # the new every_steps makes a checkpoint of one step more
            daemon.wait_metric("insitu_checkpoints_total", 2)

            peer = Peer(daemon.endpoint)
            assert isinstance(peer.hears(Welcome), Welcome)
            daemon.signal(signal.SIGTERM)
            assert daemon.wait() == 0
            wait_for(lambda: manager.heard("STOPPING=1"), "STOPPING=1")
            assert list_checkpoints(tmp_path / "checkpoints")[-1].name.endswith("12")
            assert isinstance(peer.hears(Drain), Drain)
            peer.close()
            push(source, 92, 100)
            assert source.stats().pending_rows == 8
            assert source.stats().acknowledged_rows == 92


def check_reloading(daemon: Daemon, manager: Manager) -> None:
    """A good change is taken, a broken file changes nothing; both are told."""
    path = daemon.directory / "run.yaml"
    document = yaml.safe_load(path.read_text())
    document["service"]["log_level"] = "debug"
    document["checkpoint"]["every_steps"] = 1
    document["trainer"]["batch_size"] = 4
    path.write_text(yaml.safe_dump(document))
    daemon.signal(signal.SIGHUP)
    wait_log(daemon, "the configuration was read again")
    assert "trainer.batch_size" in wait_log(daemon, "only read at a start")["message"]
    wait_for(lambda: manager.heard("RELOADING=1"), "RELOADING=1")
    for count, broken in enumerate(("trainer: {batch_sice: 4}", "service: [", None), 1):
        path.write_text(broken) if broken is not None else path.unlink()
        daemon.signal(signal.SIGHUP)
        wait_for(lambda count=count: kept_the_old(daemon) == count, "word of a broken file")  # type: ignore[misc]
        assert daemon.get("/readyz")[0] == 200


def kept_the_old(daemon: Daemon) -> int:
    """How often it said that the old configuration stays."""
    return sum("the old one stays" in line["message"] for line in daemon.log_lines())


def test_a_second_sigterm_ends_a_long_drain_at_once(tmp_path: Path) -> None:
    with daemon_with(tmp_path, "mine:Slow") as daemon:
        daemon.start()
        with producer(daemon, linger_seconds=0) as source:
            push(source, 0, 400)
            source.flush(60)
            daemon.signal(signal.SIGTERM)
            wait_log(daemon, "training the")
            daemon.signal(signal.SIGTERM)
            assert daemon.wait() == 130


def test_what_a_drain_has_no_time_for_stays_in_the_checkpoint(tmp_path: Path) -> None:
    with daemon_with(tmp_path, "mine:Slow", service={"drain_seconds": 0.5}) as daemon:
        daemon.start()
        with producer(daemon, linger_seconds=0) as source:
            push(source, 0, 400)
            source.flush(60)
            assert daemon.stop() == 0
        assert "took longer" in daemon.log()
        state, _ = read_checkpoint(list_checkpoints(tmp_path / "checkpoints")[-1])
        trained = 8 * state["trainer"]["steps"]
        assert 0 < len(state["buffer"]["rows"]) == 400 - trained


def test_a_stop_cuts_a_drain_short_and_both_are_answered(tmp_path: Path) -> None:
    with daemon_with(tmp_path, "mine:Slow") as daemon, ThreadPoolExecutor() as pool:
        daemon.start()
        with producer(daemon, linger_seconds=0) as source:
            push(source, 0, 400)
            source.flush(60)
            drains = [pool.submit(daemon.post, "drain") for _ in range(2)]
            wait_for(lambda: daemon.status()["service"]["state"] == "draining", "the drain")
            code, answer = daemon.post("stop", drain=False)
            assert daemon.wait() == 0
        pending = answer["result"]["pending_samples"]
        assert (code, pending > 0) == (200, True)
        for drain in drains:
            assert drain.result()[1]["result"]["pending_samples"] == pending
        state, _ = read_checkpoint(list_checkpoints(tmp_path / "checkpoints")[-1])
        assert len(state["buffer"]["rows"]) == pending


@pytest.mark.parametrize(
    ("objective", "code", "text"),
    [
        ("mine:Broken", 7, "no_such_attribute"),
        ("mine:Told", 7, "this field is not calibrated"),
        ("mine:Diverging", 5, "not finite"),
    ],
)
def test_a_failure_ends_with_the_exit_code_of_whose_fault_it_is(
    tmp_path: Path, objective: str, code: int, text: str
) -> None:
    with daemon_with(tmp_path, objective, trainer={"non_finite": "stop"}) as daemon:
        daemon.start()
        with producer(daemon, linger_seconds=0) as source:
            push(source, 0, 80)
            assert daemon.wait() == code
        assert text in daemon.log()
        if code == 5:  # the step was refused; what was taken and not trained is not lost
            state, _ = read_checkpoint(list_checkpoints(tmp_path / "checkpoints")[-1])
            counters = state["buffer"]["scheduler"]["counters"]
            assert (state["trainer"]["steps"], counters["drawn"]) == (2, 24)
            assert len(state["buffer"]["rows"]) == counters["received"] - 24


def test_a_rolled_back_step_stays_in_the_books(tmp_path: Path) -> None:
    with daemon_with(tmp_path, "mine:Diverging", trainer={"non_finite": "rollback"}) as daemon:
        daemon.start()
        with producer(daemon, linger_seconds=60) as source:
            push(source, 0, 80)
        wait_log(daemon, "has ended its stream")
        wait_for(lambda: daemon.status()["buffer"]["pending_samples"] == 0, "all to be drawn")
        wait_for(lambda: books_balance(daemon), "the last step to be counted")
        assert daemon.metric("insitu_rollbacks_total") == 1
        assert daemon.metric("insitu_skipped_samples_total") == 8
        assert daemon.metric("insitu_alerts_total", kind="non_finite_loss") == 1
        assert daemon.stop() == 0
