"""`insitu keys`, and the credentials of a producer."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import yaml
import zmq

from insitu.config import read_clients
from insitu.errors import ProducerError
from insitu_producers.credentials import Credentials
from insitu_service import exit_codes
from insitu_service.cli.run import run
from keyed import Pair


def test_pairs_are_made_for_their_owner_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = tmp_path / "keys"
    assert run(["keys", str(there), "--client", "rank", "--client", "camera"]) == exit_codes.OK
    printed = capsys.readouterr()
    assert sorted(path.name for path in there.iterdir()) == [
        "camera.public", "camera.secret", "rank.public", "rank.secret",
        "server.public", "server.secret",
    ]  # fmt: skip
    assert stat.S_IMODE(there.stat().st_mode) == 0o700
    for path in there.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert len(path.read_text().strip()) == 40
    for name in ("server", "rank", "camera"):
        secret = (there / f"{name}.secret").read_text().strip()
        assert zmq.curve_public(secret.encode()).decode() == (
            (there / f"{name}.public").read_text().strip()
        )
        assert secret not in printed.out + printed.err
    for words in ("server.secret: stays with the service alone", "rank.secret: goes to client rank",
                  "INSITU_SERVER_KEY_FILE", "stream.curve.clients_file"):  # fmt: skip
        assert words in printed.err
    (tmp_path / "clients.yaml").write_text(printed.out)
    clients = read_clients(tmp_path / "clients.yaml")
    assert [(each.name, each.producer_ids, each.streams) for each in clients] == [
        ("rank", ("rank", "rank-*"), ("*",)),
        ("camera", ("camera", "camera-*"), ("*",)),
    ]


def test_what_a_client_may_be_is_said_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["keys", str(tmp_path), "--client", "a", "--producer-id", "x-*", "--stream", "plasma"]
    assert run(words) == exit_codes.OK
    (client,) = yaml.safe_load(capsys.readouterr().out)["clients"]
    assert client["producer_ids"] == ["x-*"]
    assert client["streams"] == ["plasma"]


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["keys", str(tmp_path)]) == exit_codes.OK
    assert run(["keys", str(tmp_path), "--client", "a"]) == exit_codes.OK
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for words in ([], ["--client", "a"], ["--client", "b", "--client", "a"]):
        assert run(["keys", str(tmp_path), *words]) == exit_codes.USAGE
        assert "is there already; nothing was written" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    (tmp_path / "server.public").unlink()
    assert run(["keys", str(tmp_path), "--client", "c"]) == exit_codes.USAGE
    assert not (tmp_path / "c.secret").exists()


@pytest.mark.parametrize("name", ["server", "../x", "", "a/b", "-x", "a b"])
def test_names_that_are_no_file_names_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert run(["keys", str(tmp_path), f"--client={name}"]) == exit_codes.USAGE
    assert "allowed: letters" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert run(["keys", str(tmp_path), "--client=a", "--client=a"]) == exit_codes.USAGE


SERVER, CLIENT = Pair.made(), Pair.made()


def test_credentials_come_from_arguments_then_the_environment(tmp_path: Path) -> None:
    file = CLIENT.file(tmp_path / "secret")
    (tmp_path / "token").write_text("from a file\n")
    environment = {
        "INSITU_TOKEN_FILE": str(tmp_path / "token"),
        "INSITU_SERVER_KEY": SERVER.public,
        "INSITU_SECRET_KEY_FILE": str(file),
    }
    whole = Credentials("from a file", SERVER.public, CLIENT.secret)
    assert Credentials.of(environment) == whole
    assert Credentials.of({**environment, "INSITU_TOKEN": "text"}).token == "text"
    assert Credentials.of(environment, token="given").token == "given"
    assert Credentials.of({}, server_key=SERVER.public, secret_key_file=file).token == ""
    assert Credentials.of({}) == Credentials()


def test_half_of_the_keys_is_an_error_and_so_is_a_key_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ProducerError, match="server_key is given without secret_key_file"):
        Credentials.of({"INSITU_SERVER_KEY": SERVER.public})
    with pytest.raises(ProducerError, match="a secret key is given without server_key"):
        Credentials.of({"INSITU_SECRET_KEY": CLIENT.secret})
    with pytest.raises(ProducerError, match=r"secret_key is no key \(3 characters\)") as told:
        Credentials.of({}, server_key=SERVER.public, secret_key_file=key_file(tmp_path, "abc"))
    assert "abc" not in str(told.value)
    with pytest.raises(ProducerError, match="cannot be read"):
        Credentials.of({"INSITU_TOKEN_FILE": "/no/such/file"})
    with pytest.raises(ProducerError, match="is empty"):
        Credentials.of({}, secret_key_file=key_file(tmp_path, "\n"))


def key_file(directory: Path, text: str) -> Path:
    path = directory / "wrong"
    path.write_text(text)
    return path
