"""What a configuration may open to other machines, and where secrets may stand."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from insitu.config import Config, ConfigError, check_config, read_clients, take_secret_key
from insitu.config.secrets import SECRET_KEY_VARIABLE, open_to_others, read_secret_key
from insitu.errors import OperatorError
from keyed import Pair, entry, write_clients

MINIMAL: dict[str, Any] = {
    "stream": {"names": ["s"], "fields": {"x": {"dtype": "float32", "shape": [8]}}},
    "model": {"name": "mlp_autoencoder"},
    "objective": {"name": "reconstruct"},
}
OPEN = ["tcp://0.0.0.0:5555", "tcp://*:5555", "tcp://[::]:5555", "tcp://10.1.2.3:5555",
        "tcp://eth0:5555", "tcp://node.example:5555"]  # fmt: skip
LOOPBACK = ["tcp://127.0.0.1:5555", "tcp://127.8.8.8:5555", "tcp://[::1]:5555",
            "tcp://localhost:5555", "ipc:///tmp/x", "ipc://@x"]  # fmt: skip


def checked(**sections: dict[str, Any]) -> Config:
    made = copy.deepcopy(MINIMAL)
    for name, values in sections.items():
        if isinstance(values, list):
            made[name] = values
        else:
            made.setdefault(name, {}).update(values)
    return check_config(made)


@pytest.fixture
def curve(tmp_path: Path) -> dict[str, str]:
    """A section `curve` with its files."""
    server, client = Pair.made(), Pair.made()
    return {
        "secret_key_file": str(server.file(tmp_path / "server.secret")),
        "clients_file": str(
            write_clients(tmp_path / "clients.yaml", entry("a", client.public, ["a"]))
        ),
    }


@pytest.fixture
def certificate(tmp_path: Path) -> dict[str, str]:
    made = trustme.CA().issue_cert("localhost")
    files = {"certificate_file": tmp_path / "c.pem", "key_file": tmp_path / "k.pem"}
    made.cert_chain_pems[0].write_to_path(str(files["certificate_file"]))
    made.private_key_pem.write_to_path(str(files["key_file"]))
    return {name: str(path) for name, path in files.items()}


@pytest.mark.parametrize("endpoint", OPEN)
def test_the_stream_is_open_to_others_only_with_keys_or_the_word(
    endpoint: str, curve: dict[str, str]
) -> None:
    with pytest.raises(ConfigError, match=r"stream.endpoints.0.*other machines can reach.*curve"):
        checked(stream={"endpoints": [endpoint]})
    with pytest.raises(ConfigError, match=r"stream.endpoints.0"):  # the word for HTTP is another
        checked(stream={"endpoints": [endpoint]}, http={"trusted_network": True})
    assert checked(stream={"endpoints": [endpoint], "trusted_network": True})
    assert checked(stream={"endpoints": [endpoint], "curve": curve})


@pytest.mark.parametrize("endpoint", LOOPBACK)
def test_loopback_needs_no_word(endpoint: str) -> None:
    assert checked(stream={"endpoints": [endpoint]})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "node.example"])
def test_http_is_open_to_others_only_with_a_token_and_tls_or_the_word(
    host: str, tmp_path: Path, certificate: dict[str, str]
) -> None:
    (tmp_path / "token").write_text("s3cret")
    token = {"token_file": str(tmp_path / "token")}
    for lacking in (
        {},
        token,
        {"trusted_network": True},
        certificate,
    ):
        with pytest.raises(ConfigError, match=r"http.host: is .*other machines"):
            checked(http={"host": host, **lacking}, stream={"trusted_network": True})
    assert checked(http={"host": host, **token, "trusted_network": True})
    assert checked(http={"host": host, **token, **certificate})


def test_certificate_and_key_go_together(tmp_path: Path, certificate: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="certificate_file and key_file go together"):
        checked(http={"key_file": certificate["key_file"]})
    other = tmp_path / "other.pem"
    trustme.CA().issue_cert("localhost").private_key_pem.write_to_path(str(other))
    with pytest.raises(ConfigError, match=r"http.certificate_file: cannot be used") as told:
        checked(http={**certificate, "key_file": str(other)})
    assert "PRIVATE" not in str(told.value)
    with pytest.raises(ConfigError, match="No such file"):
        checked(http={**certificate, "key_file": "/no/such/file"})


def test_a_url_with_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="user or password") as told:
        checked(hooks=[{"on": "start", "post": "https://me:hunter2@example.org/x"}])  # type: ignore[arg-type]
    assert "hunter2" not in str(told.value)
    assert checked(hooks=[{"on": "start", "post": "https://example.org/x@y"}])  # type: ignore[arg-type]


def test_keys_are_read_from_a_file_or_the_environment_and_nothing_is_told_of_them(
    tmp_path: Path,
) -> None:
    pair = Pair.made()
    path = pair.file(tmp_path / "key")
    assert read_secret_key(path) == pair.secret
    environment = {SECRET_KEY_VARIABLE: f" {pair.secret}\n", "PATH": "/bin"}
    assert take_secret_key(None, environment) == pair.secret
    assert environment == {"PATH": "/bin"}  # so that no child inherits it
    with pytest.raises(OperatorError, match=f"{SECRET_KEY_VARIABLE} is not set"):
        take_secret_key(None, environment)
    path.write_text(pair.secret[:-1])
    with pytest.raises(OperatorError, match=r"holds no key \(39 characters\)") as told:
        read_secret_key(path)
    assert pair.secret[:8] not in str(told.value)
    assert not open_to_others(path)
    path.chmod(0o640)
    assert open_to_others(path)
    assert not open_to_others(tmp_path / "no file")


KEY = Pair.made().public


@pytest.mark.parametrize(
    ("clients", "words"),
    [
        ([{"name": "a"}], "clients.0.public_key: is missing"),
        ([entry("a", "short", ["a"])], "clients.0.public_key"),
        ([entry("a", KEY, [])], "clients.0.producer_ids"),
        ([entry("a", KEY, ["a"]), entry("a", Pair.made().public, ["b"])], "second time"),
        ([entry("a", KEY, ["a"]), entry("b", KEY, ["b"])], "second time"),
        ([entry("a\nb", KEY, ["a"])], "clients.0.name"),
        ([entry("a", KEY, ["a"], roles=["x"])], "no such setting"),
        ("everybody", "clients"),
    ],
)
def test_a_wrong_clients_file_is_named_by_place(
    tmp_path: Path, clients: Any, words: str, curve: dict[str, str]
) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump({"clients": clients}))
    with pytest.raises(ConfigError, match=words):
        read_clients(path)
    with pytest.raises(ConfigError, match=r"stream.curve.clients_file"):
        checked(stream={"curve": {**curve, "clients_file": str(path)}})


def test_a_secret_in_the_wrong_place_is_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("correct-horse")
    with pytest.raises(ConfigError, match="is not a mapping") as told:
        read_clients(path)
    assert "correct" not in str(told.value)
    secret = Pair.made().secret[:-1]
    with pytest.raises(ConfigError, match="public_key: is no key; allowed: 40 characters") as told:
        read_clients(write_clients(path, entry("a", secret, ["a"])))
    assert secret not in str(told.value)


def test_a_clients_file_may_be_empty_and_lets_nobody_in(tmp_path: Path) -> None:
    (tmp_path / "none.yaml").write_text("")
    assert read_clients(tmp_path / "none.yaml") == ()
    with pytest.raises(ConfigError, match="cannot be read"):
        read_clients(tmp_path / "no file")


@pytest.mark.parametrize(
    ("patterns", "name", "matches"),
    [
        (["rank-*"], "rank-7", True),
        (["rank-*"], "Rank-7", False),
        (["rank-?"], "rank-10", False),
        (["rank-[0-3]"], "rank-2", True),
        (["a", "b"], "b", True),
        (["a"], "a\n", False),
        (["*"], "", True),
    ],
)
def test_patterns_match_whole_names(
    tmp_path: Path, patterns: list[str], name: str, matches: bool
) -> None:
    (client,) = read_clients(write_clients(tmp_path / "c.yaml", entry("a", KEY, patterns)))
    assert client.may_be(name) is matches
    assert client.may_push_to(name)


def test_there_are_no_fewer_connections_than_producers() -> None:
    with pytest.raises(ConfigError, match="fewer than max_producers"):
        checked(stream={"max_producers": 600})
    assert checked(stream={"max_producers": 600, "max_connections": 600})
