"""What keeps a service from starting: each told in words, with its exit code, and nothing left."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bad_input import assert_lives, config
from daemon import Daemon
from forked import ForkedCommand

PLUGINS = """
import torch

def raises(input_shape, output_shape):
    raise ValueError("no weights today")

def no_module(input_shape, output_shape):
    return "a model, honestly"
"""


class Attempt:
    """Runs `insitu serve` in a directory, with the operator's own modules, until it ends."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        (directory / "my_models.py").write_text(PLUGINS)
        (directory / "my_broken.py").write_text("import a_package_that_is_not_there\n")

    def __call__(self, *arguments: str, **changes: Any) -> tuple[int, str]:
        """Exit code and output."""
        path = self._directory / "run.yaml"
        path.write_text(yaml.safe_dump(config(self._directory, **changes)))
        return self.of("serve", str(path), *arguments)

    def of(self, *words: str) -> tuple[int, str]:
        output = self._directory / "output"
        environment = {**os.environ, "PYTHONPATH": str(self._directory)}
        command = ForkedCommand(
            words, output=output, directory=self._directory, environment=environment
        )
        return command.wait(60.0), output.read_text()


@pytest.fixture
def attempt(tmp_path: Path) -> Attempt:
    return Attempt(tmp_path)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A service that is there first."""
    directory = tmp_path_factory.mktemp("first")
    endpoints = [f"ipc://{directory}/ingest", "tcp://127.0.0.1:*"]
    with Daemon(directory, config(directory, stream={"endpoints": endpoints})) as daemon:
        yield daemon.start()
        assert daemon.stop() == 0


# the configuration


def test_all_typos_are_named_at_once(attempt: Attempt) -> None:
    code, said = attempt(
        buffer={"capacity_sampels": 10, "policy": "fifi"},
        trainer={"batch_size": 0},
        model={"name": "mpl"},
        strategies_={},
    )
    assert code == 2, said
    for text in (
        "capacity_sampels", "did you mean capacity_samples?", "'fifi'", "fifo",
        "trainer.batch_size", "is 0", "1 or more", "'mpl'", "did you mean mlp?", "strategies_",
        "5 problems",
    ):  # fmt: skip
        assert text in said, f"{text!r} is not in:\n{said}"


def test_a_file_that_is_not_there(attempt: Attempt) -> None:
    code, said = attempt.of("serve", "nowhere.yaml")
    assert code == 2, said
    assert "nowhere.yaml" in said


def test_a_file_that_is_no_yaml(attempt: Attempt, tmp_path: Path) -> None:
    (tmp_path / "torn.yaml").write_text("stream: [names: {\n")
    code, said = attempt.of("serve", "torn.yaml")
    assert code == 2, said
    assert "torn.yaml" in said
    assert "line" in said


def test_a_token_file_that_is_not_there(attempt: Attempt, tmp_path: Path) -> None:
    code, said = attempt(stream={"token_file": str(tmp_path / "no-token")})
    assert code == 2
    assert "no-token" in said


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stream": {"endpoints": ["tcp://0.0.0.0:5599"]}},
         ["stream.endpoints.0", "other machines can reach", "stream.curve", "trusted_network"]),
        ({"http": {"host": "0.0.0.0", "trusted_network": True}}, ["http.host", "token_file"]),
        ({"http": {"host": "0.0.0.0"}}, ["http.host", "certificate_file"]),
    ],
    ids=["stream without keys", "HTTP without a token", "HTTP without TLS"],
)  # fmt: skip
def test_nothing_is_opened_to_other_machines_without_a_word(
    attempt: Attempt, changes: dict[str, Any], words: list[str]
) -> None:
    code, said = attempt(**changes)
    assert code == 2, said
    assert [word for word in words if word not in said] == []


def test_keys_that_are_not_there(attempt: Attempt, tmp_path: Path) -> None:
    (tmp_path / "clients.yaml").write_text("clients: []")
    curve = {"clients_file": str(tmp_path / "clients.yaml")}
    code, said = attempt(stream={"curve": curve})
    assert code == 2, said
    assert "INSITU_SERVER_SECRET_KEY is not set" in said
    assert "`insitu keys`" in said
    code, said = attempt(stream={"curve": {**curve, "secret_key_file": str(tmp_path / "none")}})
    assert code == 2, said
    assert "stream.curve.secret_key_file" in said


# the operator's own code


def test_a_factory_that_raises(attempt: Attempt) -> None:
    code, said = attempt(model={"name": "my_models:raises", "options": {}})
    assert code == 7, said
    assert "'my_models:raises' cannot be built: ValueError: no weights today" in said
    assert "remedy" in said


def test_a_factory_that_returns_no_module(attempt: Attempt) -> None:
    code, said = attempt(model={"name": "my_models:no_module", "options": {}})
    assert code == 7, said
    assert "returned str; allowed: a torch.nn.Module" in said


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("my_broken:factory", ["a_package_that_is_not_there"]),
        ("my_absent:factory", ["my_absent", "PYTHONPATH"]),
        ("my_models:absent", ["absent", "defined there"]),
    ],
)
def test_a_module_that_does_not_import(attempt: Attempt, name: str, texts: list[str]) -> None:
    code, said = attempt(model={"name": name, "options": {}})
    assert code == 2, said
    assert all(text in said for text in (name, "model.name", *texts)), said


# ports, sockets and directories


def test_an_http_port_in_use(attempt: Attempt, daemon: Daemon) -> None:
    port = int(daemon.url.rsplit(":", 1)[1])
    code, said = attempt(http={"port": port})
    assert code == 3, said
    assert f"http port {port}" in said
    assert "Address already in use" in said
    assert "--set http.port" in said
    assert_lives(daemon)


def test_a_tcp_endpoint_in_use(attempt: Attempt) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        endpoint = f"tcp://127.0.0.1:{holder.getsockname()[1]}"
        code, said = attempt(stream={"endpoints": [endpoint]})
    assert code == 3, said
    assert f"{endpoint!r} cannot be bound: Address already in use" in said
    assert "stream.endpoints" in said


def test_an_ipc_endpoint_of_a_living_service_is_not_stolen(
    attempt: Attempt, daemon: Daemon
) -> None:
    code, said = attempt(stream={"endpoints": [daemon.endpoint]})
    assert code == 3, said
    assert f"{daemon.endpoint!r} cannot be bound: another process listens there" in said
    assert_lives(daemon)


def test_an_ipc_endpoint_is_never_made_of_somebodys_file(attempt: Attempt, tmp_path: Path) -> None:
    precious = tmp_path / "results.csv"
    precious.write_text("1,2,3\n")
    code, said = attempt(stream={"endpoints": [f"ipc://{precious}"]})
    assert code == 3, said
    assert "is there and is no socket" in said
    assert precious.read_text() == "1,2,3\n"


def test_an_ipc_endpoint_in_a_missing_directory(attempt: Attempt, tmp_path: Path) -> None:
    code, said = attempt(stream={"endpoints": [f"ipc://{tmp_path}/nowhere/ingest"]})
    assert code == 2, said
    assert f"'{tmp_path}/nowhere' does not exist" in said


def test_a_checkpoint_directory_that_cannot_be_made(attempt: Attempt, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    code, said = attempt(checkpoint={"directory": str(tmp_path / "file" / "checkpoints")})
    assert code == 2, said
    assert "checkpoint.directory" in said
    assert f"'{tmp_path}/file/checkpoints'" in said


def test_nothing_to_resume_from(attempt: Attempt, tmp_path: Path) -> None:
    code, said = attempt("--resume", checkpoint={"directory": str(tmp_path / "empty")})
    assert code == 6, said
    assert "there is no checkpoint in" in said
    assert "start without --resume" in said


def test_what_a_killed_service_left_behind_is_taken_over(tmp_path: Path) -> None:
    """Its socket file is still there, and nobody listens."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "ingest"))
    assert os.path.exists(tmp_path / "ingest")
    with Daemon(tmp_path, config(tmp_path)).start() as daemon:
        assert_lives(daemon)
