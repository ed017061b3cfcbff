"""The command line: what it prints, and the exit code it leaves."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import insitu
from insitu.errors import InternalError, OperatorError, ProducerError
from insitu_service import exit_codes
from insitu_service.cli.bench import benchmarks
from insitu_service.cli.client import ServiceClient, UnreachableError
from insitu_service.cli.push import read_arrays
from insitu_service.cli.run import code_of, run
from insitu_service.commands import COMMANDS, CommandQueue
from insitu_service.http.application import create_app
from insitu_service.http.server import HttpServer, PortError, serve_http
from peer import Peer

RUN = {
    "stream": {"names": ["s"], "fields": {"x": {"dtype": "float32", "shape": [4]},
                                          "y": {"dtype": "int64"}}},
    "model": {"name": "mlp", "options": {"hidden": [8]}},
    "objective": {"name": "classify", "options": {"classes": 3}},
}  # fmt: skip


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(RUN))
    return path


@pytest.fixture
def server() -> Iterator[HttpServer]:
    """A service whose learner carries out every command at once, but for `evaluate`."""

    def post(name: str, arguments: dict[str, Any]) -> Future[dict[str, Any]]:
        queue = CommandQueue()
        future = queue.post(name, arguments)
        (command,) = queue.drain()
        if name == "drain":
            command.done.set_exception(OperatorError("nothing to drain", remedy="push first"))
        elif name != "evaluate":
            command.done.set_result({"name": name, **command.arguments})
        return future

    made = serve_http(
        create_app(
            exposition=lambda accept: (b"", "text/plain"),
            status=lambda: {"service": {"name": "s", "state": "running", "version": "1"}},
            ready=lambda: [],
            alive=lambda: True,
            post=post,
            token="s3cret",
        ),
        "127.0.0.1",
        0,
    )
    yield made
    made.close()


@pytest.fixture
def reach(server: HttpServer, tmp_path: Path) -> list[str]:
    """The options with which a command finds the service."""
    (tmp_path / "token").write_text("s3cret\n")
    return ["--url", server.url, "--token-file", str(tmp_path / "token")]


def process(*arguments: str, code: str = "") -> subprocess.CompletedProcess[str]:
    start = ["-c", code] if code else ["-m", "insitu_service.cli"]
    return subprocess.run([sys.executable, *start, *arguments], capture_output=True, text=True)


# without a service


def test_version_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom insitu_service.cli.run import run\nrun(['version'])\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'starlette', 'rich', 'zmq'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = process(code=code)
    assert done.stderr == ""
    assert done.stdout == f"insitu {insitu.__version__}\n"


def test_a_machine_without_the_service_extra_gets_a_remedy() -> None:
    code = (
        "import sys\nsys.modules['click'] = None\n"
        "from insitu_service.cli import main\nmain(['serve', 'x'])\n"
    )
    done = process(code=code)
    assert done.returncode == exit_codes.USAGE
    assert done.stderr.splitlines() == [
        "insitu: this needs click, which is not installed; pip install 'insitu[service]'"
    ]


def test_a_package_that_a_command_needs_is_named() -> None:
    code = (
        "import sys\nsys.modules['yaml'] = None\n"
        "from insitu_service.cli import main\nmain(['validate', 'x'])\n"
    )
    done = process(code=code)
    assert done.returncode == exit_codes.USAGE
    assert "this needs yaml" in done.stderr


def test_validate(run_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["validate", str(run_file)]) == exit_codes.OK
    assert "is valid: mlp learns to classify" in capsys.readouterr().out


def test_validate_names_all_problems(run_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["validate", str(run_file), "--set", "buffer.polcy=fifo", "--set", "http.port=x"]
    assert run(arguments) == exit_codes.USAGE
    told = capsys.readouterr().err
    assert "has 2 problems" in told
    assert "did you mean policy?" in told
    assert "http.port (--set http.port=x)" in told


def test_variables_count(run_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSITU__BUFFER__CAPACITY_SAMPLES", "0")
    assert run(["validate", str(run_file)]) == exit_codes.USAGE


@pytest.mark.parametrize("form", ["yaml", "json"])
def test_config_show_is_what_serve_would_use(
    run_file: Path, form: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["config", "show", str(run_file), "--set", "trainer.seed=5", "--format", form]
    assert run(arguments) == exit_codes.OK
    shown = capsys.readouterr().out
    tree = yaml.safe_load(shown) if form == "yaml" else json.loads(shown)
    assert tree["trainer"]["seed"] == 5
    assert tree["objective"]["options"]["label_smoothing"] == 0.0
    again = tmp_path / "again.yaml"
    again.write_text(shown)
    assert run(["validate", str(again)]) == exit_codes.OK


def test_config_schema_is_a_json_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "schema"]) == exit_codes.OK
    schema = json.loads(capsys.readouterr().out)
    assert set(schema["required"]) == {"stream", "model", "objective"}


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["serve"], ["validate", "--set"], ["bench", "nonsense"]]
)
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == exit_codes.USAGE
    assert capsys.readouterr().err


def test_serve_starts_nothing_with_a_wrong_file(run_file: Path) -> None:
    done = process("serve", str(run_file), "--set", "trainer.batch_size=0")
    assert done.returncode == exit_codes.USAGE
    assert "trainer.batch_size" in done.stderr


def test_bench_lists_what_has_a_main(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench"]) == exit_codes.OK
    listed = capsys.readouterr().out
    for name, meaning in benchmarks().items():
        assert f"{name} " in listed
        assert meaning, f"benchmark {name} says nothing about itself"


# with a service


def test_no_service_answers(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", "--url", "http://127.0.0.1:9"]) == exit_codes.UNREACHABLE
    assert "no service answers at http://127.0.0.1:9" in capsys.readouterr().err
    assert run(["status", "--url", "127.0.0.1:9"]) == exit_codes.USAGE


def test_status(reach: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", *reach]) == exit_codes.OK
    assert capsys.readouterr().out == "state       running, version 1\n"
    assert run(["status", *reach, "--json"]) == exit_codes.OK
    assert json.loads(capsys.readouterr().out)["service"]["name"] == "s"


def test_control_prints_the_result(reach: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["stop", "--no-drain", *reach]) == exit_codes.OK
    assert json.loads(capsys.readouterr().out) == {"name": "stop", "drain": False}
    assert run(["checkpoint", *reach]) == exit_codes.OK


def test_control_that_fails(reach: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["drain", *reach]) == exit_codes.UNREACHABLE
    assert "nothing to drain; remedy: push first" in capsys.readouterr().err
    assert run(["drain", *reach[:2]]) == exit_codes.UNREACHABLE
    assert "token is missing or wrong" in capsys.readouterr().err


def test_control_that_takes_longer(reach: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", *reach, "--timeout", "0.05"]) == exit_codes.UNREACHABLE
    assert "goes on" in capsys.readouterr().err
    assert run(["evaluate", *reach, "--timeout", "0"]) == exit_codes.OK


def test_every_control_command_is_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        name = command.replace("_", "-")
        assert run([name, "--help"]) == exit_codes.OK
        assert f"Usage: insitu {name}" in capsys.readouterr().out


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell's background job ignores SIGINT, and so do its children, unless told otherwise."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_watch_goes_on_until_interrupted(reach: list[str]) -> None:
    command = [sys.executable, "-m", "insitu_service.cli", "status", "--watch", *reach]
    with subprocess.Popen(
        [*command, "--interval", "0.1"], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as watching:  # fmt: skip
        assert watching.stdout is not None
        lines = [watching.stdout.readline() for _ in range(3)]
        watching.send_signal(2)
        assert watching.wait(10) == exit_codes.INTERRUPTED
    assert lines == ["state       running, version 1\n"] * 3


def test_another_server_is_no_service(server: HttpServer) -> None:
    with pytest.raises(UnreachableError, match=r"/livez/status"):
        ServiceClient(f"{server.url}/livez").status()


# exit codes


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InternalError("x"), exit_codes.INTERNAL),
        (ValueError("x"), exit_codes.INTERNAL),
        (OperatorError("x"), exit_codes.USAGE),
        (ProducerError("x"), exit_codes.USAGE),
        (PortError("x"), exit_codes.RESOURCE),
        (OSError(errno.ENOSPC, "x"), exit_codes.RESOURCE),
        (MemoryError(), exit_codes.RESOURCE),
        (UnreachableError("x"), exit_codes.UNREACHABLE),
    ],
)
def test_errors_have_exit_codes(error: Exception, code: int) -> None:
    assert code_of(error) == code


def test_errors_with_a_code_by_name_exist() -> None:
    from insitu.checkpoint import CheckpointDamaged
    from insitu.trainer import NonFiniteLoss

    assert code_of(CheckpointDamaged.__new__(CheckpointDamaged)) == exit_codes.CHECKPOINT
    assert code_of(NonFiniteLoss.__new__(NonFiniteLoss)) == exit_codes.NON_FINITE


def test_every_exit_code_has_a_meaning() -> None:
    codes = {value for name, value in vars(exit_codes).items() if isinstance(value, int)}
    assert codes == set(exit_codes.MEANINGS)
    assert all(exit_codes.MEANINGS.values())


# pushing files


def test_push_sends_every_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = np.arange(20, dtype=np.float32).reshape(10, 2)
    np.savez(tmp_path / "a.npz", x=rows, y=np.arange(10))
    with Peer(f"ipc://{tmp_path}/peer") as peer:
        arguments = ["push", str(tmp_path / "a.npz"), "--endpoint", peer.endpoint, "--stream", "s"]
        assert run([*arguments, "--rows-per-push", "3", "--repeat", "2", "--rate", "1e6"]) == 0
        (stored,) = peer.store.values()
        assert stored.rows("x") == [*rows.tolist(), *rows.tolist()]
        assert stored.rows("y") == [*range(10), *range(10)]
        assert stored.cursor == 8
    books = json.loads(capsys.readouterr().out)
    assert books["pushed_rows"] == books["acknowledged_rows"] == 20


def test_push_keeps_to_the_rate(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((10, 2), np.float32))
    with Peer(f"ipc://{tmp_path}/peer") as peer:
        arguments = ["push", str(tmp_path / "a.npy"), "--endpoint", peer.endpoint, "--stream", "s"]
        began = time.monotonic()
        assert run([*arguments, "--rows-per-push", "2", "--rate", "20"]) == exit_codes.OK
        assert time.monotonic() - began >= 8 / 20  # the first push waits for nothing


def test_push_says_when_rows_were_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "a.npy", np.zeros((10, 2), np.float32))
    with Peer(f"ipc://{tmp_path}/peer", quarantine=lambda data: True) as peer:
        arguments = ["push", str(tmp_path / "a.npy"), "--endpoint", peer.endpoint, "--stream", "s"]
        assert run(arguments) == exit_codes.UNREACHABLE
    told = capsys.readouterr()
    assert json.loads(told.out)["quarantined_rows"] == 10
    assert "not every sample was taken" in told.err


def test_push_without_a_service_gives_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "a.npy", np.zeros((10, 2), np.float32))
    arguments = ["push", str(tmp_path / "a.npy"), "--endpoint", f"ipc://{tmp_path}/nobody"]
    assert run([*arguments, "--stream", "s", "--timeout", "0.2"]) == exit_codes.UNREACHABLE
    assert "10 rows are pending" in capsys.readouterr().err


# files of arrays


def test_arrays_are_read_by_field(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.ones((3, 2)), y=np.arange(3))
    assert read_arrays(tmp_path / "a.npz", "z").keys() == {"x", "y"}
    np.save(tmp_path / "a.npy", np.ones((3, 2)))
    assert read_arrays(tmp_path / "a.npy", "z")["z"].shape == (3, 2)


def test_files_that_cannot_be_pushed_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "uneven.npz", x=np.ones(3), y=np.ones(4))
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    np.save(tmp_path / "single.npy", np.float32(3))
    np.savez(tmp_path / "objects.npz", x=np.array([{}]))
    (tmp_path / "junk.npz").write_bytes(b"PK\x03\x04junk")
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "a.csv").write_text("1,2")
    for file in (*tmp_path.iterdir(), tmp_path / "none.npy"):
        with pytest.raises(OperatorError, match=file.name):
            read_arrays(file, "x")
