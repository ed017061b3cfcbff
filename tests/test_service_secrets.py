"""Secrets stay secret: a service at debug level is made to say all it can, and searched."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bad_input import Hostile
from daemon import Daemon, wait_for
from insitu_producers import Producer
from insitu_producers.credentials import Credentials
from keyed import Pair, entry, keyed_config, keyed_producer
from served import SCHEMA, push, wait_log

STREAM_TOKEN, HTTP_TOKEN = "stream-correct-horse", "http-battery-staple"
SERVER, CLIENT = Pair.made(), Pair.made()
SECRETS = {
    "stream token": STREAM_TOKEN,
    "HTTP token": HTTP_TOKEN,
    "secret key": SERVER.secret,
    "a client's secret key": CLIENT.secret,
}


def leaks(text: str) -> list[str]:
    """Names of the secrets that a text holds."""
    return [name for name, secret in SECRETS.items() if secret in text]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("secrets")


def secret_file(path: Path, text: str, mode: int = 0o600) -> str:
    path.touch(mode=mode)
    path.write_text(text + "\n")
    return str(path)


def secretive(directory: Path) -> dict[str, Any]:
    """A configuration with every kind of secret."""
    made = keyed_config(
        directory, SERVER, [entry("rank", CLIENT.public, ["rank-*"])],
        token_file=secret_file(directory / "stream-token", STREAM_TOKEN),
    )  # fmt: skip
    made["http"] = {
        "port": 0,
        "token_file": secret_file(directory / "http-token", HTTP_TOKEN),
        "open_addresses": ["/", "/metrics", "/livez", "/readyz", "/status"],
    }
    made["service"].update(log_level="debug")
    record = f"cat >> {directory}/events; env >> {directory}/events"
    made["hooks"] = [{"on": on, "shell": record} for on in ("start", "step", "checkpoint", "stop")]
    return made


@pytest.fixture(scope="module")
def daemon(directory: Path) -> Iterator[Daemon]:
    with Daemon(directory, secretive(directory)) as daemon:
        yield daemon.start()


def provoke(daemon: Daemon, directory: Path) -> None:
    """Everything that a service could tell of: good and bad greetings, bad requests, a reload."""
    with keyed_producer(
        daemon, directory, SERVER.public, CLIENT, "rank-0", token=STREAM_TOKEN
    ) as good:
        push(good, 0, 60)
        good.flush(30.0)
    ipc = f"ipc://{directory}/ingest"
    for text in SECRETS.values():
        with Hostile(ipc) as peer:  # whoever knows a secret may say it where it will be logged
            peer.hello(text, stream=text, schema=SCHEMA, token=text, host_id=text)
            peer.frames(text.encode())
            peer.socket.poll(5000)
        for path in (f"/{text}", f"/control/{text}", f"/status?token={text}"):
            daemon.get(path)
    wait_log(daemon, "is refused")
    daemon.post("stop")
    daemon.signal(signal.SIGHUP)
    wait_log(daemon, "the configuration was read again")
    with Hostile(ipc) as peer:  # again, with the log as it is after a reload
        peer.hello(STREAM_TOKEN, stream="unknown", schema=SCHEMA, token=STREAM_TOKEN)
        wait_for(lambda: "there is no stream 'unknown'" in daemon.log(), "the log of it", 20.0)


def test_no_secret_is_told_by_a_running_service(daemon: Daemon, directory: Path) -> None:
    provoke(daemon, directory)
    for path in ("/", "/metrics", "/livez", "/readyz", "/status"):
        code, said = daemon.get(path)
        assert code == 200
        assert leaks(said) == []
    assert "***" in daemon.log()  # it was there, and was covered
    shown = subprocess.run(
        [sys.executable, "-m", "insitu_service.cli", "config", "show", "run.yaml"],
        cwd=directory, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    assert "token_file" in shown.stdout
    assert leaks(shown.stdout + shown.stderr) == []
    daemon.signal(signal.SIGQUIT)  # all stacks
    wait_for(lambda: "Current thread" in daemon.log(), "the stacks")
    assert daemon.stop() == 0
    assert leaks(daemon.log()) == []
    assert leaks((directory / "events").read_text()) == []
    written = [path for path in (directory / "checkpoints").rglob("*") if path.is_file()]
    assert len(written) >= 2
    for path in written:
        assert leaks(path.read_bytes().decode("latin-1")) == []


def test_what_a_service_writes_only_its_user_can_read(daemon: Daemon, directory: Path) -> None:
    if daemon.process is not None and daemon.process.poll() is None:
        daemon.stop()
    made = [directory / "checkpoints", *(directory / "checkpoints").rglob("*")]
    assert len(made) >= 4
    for path in made:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_a_secret_that_others_may_read_is_told(tmp_path: Path) -> None:
    made = secretive(tmp_path)
    (tmp_path / "http-token").chmod(0o644)
    with Daemon(tmp_path, made) as daemon:
        daemon.start()
        assert "http-token" in wait_log(daemon, "other users may read the secret")["message"]
        assert "stream-token" not in daemon.log()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is warned")
@pytest.mark.parametrize("allowed", [True, False])
def test_root_is_warned_once_unless_the_configuration_allows_it(
    tmp_path: Path, allowed: bool
) -> None:
    made = secretive(tmp_path)
    made["service"]["allow_root"] = allowed
    with Daemon(tmp_path, made) as daemon:
        daemon.start()
        assert daemon.log().count("the service runs as root") == (0 if allowed else 1)


def test_credentials_do_not_show_themselves() -> None:
    shown = Credentials(STREAM_TOKEN, SERVER.public, CLIENT.secret)
    assert leaks(repr(shown)) == []
    with Producer("tcp://127.0.0.1:9", stream="s", producer_id="p", token=STREAM_TOKEN) as made:
        assert leaks(repr(vars(made))) == []


WRITES = re.compile(
    r"(?:openat|open|creat|mkdirat|mkdir|renameat2?|rename|linkat|link|symlinkat|symlink|mknodat?"
    r"|bind|truncate)\((.*)"
)


@pytest.mark.slow
def test_nothing_is_written_outside_of_the_data_directory(
    need_program: Callable[[str], str], tmp_path: Path
) -> None:
    """Every system call that could make or change a file, in the life of a service."""
    strace = need_program("strace")
    if subprocess.run([strace, "-qq", "-o", "/dev/null", "true"], capture_output=True).returncode:
        pytest.skip("processes may not be traced here")
    made = secretive(tmp_path)
    del made["hooks"]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(made))
    trace, temporary = tmp_path / "trace", tmp_path / "temporary"
    temporary.mkdir()
    calls = (
        "open,openat,creat,mkdir,mkdirat,rename,renameat,renameat2,link,linkat,symlink,symlinkat"
    )
    output = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    process = subprocess.Popen(
        [strace, "-f", "-qq", "-s", "256", "-o", str(trace), "-e", f"trace={calls}",
         sys.executable, "-B", "-m", "insitu_service.cli", "serve", "run.yaml"],
        cwd=tmp_path, stderr=output,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1",
             "HOME": str(tmp_path / "home"), "TMPDIR": str(temporary)},
        start_new_session=True,
    )  # fmt: skip
    os.close(output)
    try:
        log = tmp_path / "log"
        wait_for(lambda: "serving" in log.read_text() or process.poll() is not None, "it to serve")
        assert process.poll() is None, log.read_text()
        with Producer(
            f"ipc://{tmp_path}/ingest", stream="small", producer_id="p", token=STREAM_TOKEN
        ) as local:
            push(local, 0, 60)
            local.flush(60.0)
        stop(log.read_text())
        assert process.wait(60) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(60)
    assert written(trace.read_text(errors="replace"), tmp_path) == []
    assert list(temporary.iterdir()) == []


def stop(log: str) -> None:
    """Ask the service of this log to stop, over HTTP."""
    (url,) = re.findall(r'"url": "(http[^"]+)"', log)
    headers = {"Authorization": f"Bearer {HTTP_TOKEN}"}
    request = urllib.request.Request(f"{url}/control/stop?timeout=0", b"", headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert answer.status in (200, 202)


def written(trace: str, directory: Path) -> list[str]:
    """The paths outside of a directory that were opened to be written, made or renamed."""
    found = []
    for line in trace.splitlines():
        call = WRITES.search(line)
        if call is None or " = -1 " in line:
            continue
        if "open" in line.split("(")[0] and not re.search(r"O_(WRONLY|RDWR|CREAT)", line):
            continue
        for path in re.findall(r'"((?:[^"\\]|\\.)*)"', call[1]):
            whole = Path(os.path.normpath(directory / path))
            if not whole.is_relative_to(directory) and not str(whole).startswith(
                ("/dev/", "/proc/")
            ):
                found.append(line)
    return found


def test_the_search_of_a_trace_finds_what_lies_outside(tmp_path: Path) -> None:
    lines = [
        'openat(AT_FDCWD, "/etc/passwd", O_RDONLY) = 3',
        f'openat(AT_FDCWD, "{tmp_path}/x", O_WRONLY|O_CREAT, 0600) = 3',
        'openat(AT_FDCWD, "relative", O_RDWR|O_CREAT, 0600) = 3',
        'openat(AT_FDCWD, "/dev/null", O_RDWR) = 3',
        'openat(AT_FDCWD, "/tmp/no", O_RDWR|O_CREAT, 0600) = -1 EACCES',
    ]
    outside = [
        'openat(AT_FDCWD, "/tmp/yes", O_RDWR|O_CREAT, 0600) = 3',
        'mkdir("/var/yes", 0777) = 0',
        'rename("a", "/home/yes") = 0',
        'openat(AT_FDCWD, "../yes", O_WRONLY) = 3',
    ]
    assert written("\n".join(lines + outside), tmp_path) == outside
    assert shutil.which("sh")
