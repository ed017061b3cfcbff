"""A service that may open few files: it accepts what it can, tells, and goes on."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from pathlib import Path

import pytest

from daemon import Daemon, wait_for
from insitu.config import check_config
from insitu_service.supervision.descriptors import connections_within, within_descriptors
from keyed import free_port
from served import books_balance, config, producer, push, wait_log


def descriptors(daemon: Daemon) -> int:
    assert daemon.process is not None
    return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))


def processor_seconds(daemon: Daemon) -> float:
    assert daemon.process is not None
    after_name = Path(f"/proc/{daemon.process.pid}/stat").read_text().rpartition(")")[2].split()
    user, system = int(after_name[11]), int(after_name[12])
    return (user + system) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("limit", [200, 40])
def test_more_connections_than_descriptors_neither_end_it_nor_make_it_spin(
    tmp_path: Path, limit: int
) -> None:
    port = free_port()
    stream = {"endpoints": [f"tcp://127.0.0.1:{port}"], "greeting_seconds": 60.0}
    daemon = Daemon(tmp_path, config(tmp_path, stream=stream))
    with daemon, contextlib.ExitStack() as strangers:
        daemon.launch()
        assert daemon.process is not None
        # the soft limit is lower, and raised by the service itself
        resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (32, limit))
        daemon.wait_ready()
        assert resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE) == (limit, limit)
        warning = wait_log(daemon, "stream.max_connections is 512")
        assert f"the limit of {limit} file descriptors" in warning["message"]
        at_rest = descriptors(daemon)
        for _ in range(300):
            strangers.enter_context(socket.create_connection(("127.0.0.1", port)))
        if limit < 100:  # less than a burst needs
            reason = {"reason": "not_accepted"}
            daemon.wait_metric("insitu_refused_handshakes_total", 1, **reason)
        daemon.wait_metric("insitu_cut_connections_total", 100, reason="too_many")
        wait_for(lambda: daemon.metric("insitu_connections") < limit / 2, "room")
        before = processor_seconds(daemon)
        for start in range(0, 80, 20):  # an open connection for each: none is left over
            with producer(daemon, f"rank-{start}") as source:
                push(source, start, start + 20)
                source.flush(20.0)
        daemon.wait_metric("insitu_trained_samples_total", 80, source="fresh")
        assert processor_seconds(daemon) - before < 5.0
        strangers.close()
        wait_for(lambda: descriptors(daemon) <= at_rest + 2, "descriptors to be closed")
        assert books_balance(daemon)
        assert daemon.stop() == 0


def test_connections_are_limited_to_what_descriptors_are_enough_for(tmp_path: Path) -> None:
    made = check_config(config(tmp_path))
    assert within_descriptors(made, 1 << 20) is made
    fewer = within_descriptors(made, 200).stream
    assert fewer.max_connections < 200 - 64
    assert fewer.max_producers <= fewer.max_connections
    assert fewer.endpoints == made.stream.endpoints


def test_one_connection_is_always_tried() -> None:
    assert connections_within(10, 30) == 1
