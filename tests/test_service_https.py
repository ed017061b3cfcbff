"""HTTP for other machines: TLS, the token, what is open, and the commands that use it."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest
import trustme

from daemon import Daemon, wait_for
from insitu_service import exit_codes
from insitu_service.cli.client import ServiceClient, UnreachableError
from insitu_service.http.server import Certificate, serve_http
from served import config

TOKEN = "correct-horse-battery"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def certify(authority: trustme.CA, directory: Path) -> Mapping[str, str]:
    """A certificate for this machine, in files."""
    made = authority.issue_cert("127.0.0.1", "localhost")
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    certificate.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
    key.touch(mode=0o600)
    key.write_bytes(made.private_key_pem.bytes())
    return {"certificate_file": str(certificate), "key_file": str(key)}


class SecureDaemon(Daemon):
    """A daemon that is asked over TLS, with the token."""

    def __init__(self, directory: Path, made: Mapping[str, object], authority: trustme.CA) -> None:
        super().__init__(directory, made)
        self.context = ssl.create_default_context()
        authority.configure_trust(self.context)

    def get(self, path: str, accept: str = "*/*", token: str = TOKEN) -> tuple[int, str]:
        headers = {"Accept": accept, **({"Authorization": f"Bearer {token}"} if token else {})}
        try:
            with httpx.Client(verify=self.context, trust_env=False) as client:
                answer = client.get(self.url + path, headers=headers)
        except httpx.TransportError as error:
            return 0, str(error)
        return answer.status_code, answer.text


@pytest.fixture(scope="module")
def daemon(
    tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA
) -> Iterator[SecureDaemon]:
    directory = tmp_path_factory.mktemp("https")
    token = directory / "token"
    token.touch(mode=0o600)
    token.write_text(TOKEN)
    authority.cert_pem.write_to_path(str(directory / "authority.pem"))
    http = {
        "host": "127.0.0.1", "port": 0, "token_file": str(token),
        "open_addresses": ["/livez", "/readyz"], **certify(authority, directory),
    }  # fmt: skip
    with SecureDaemon(directory, config(directory, http=http), authority) as daemon:
        yield daemon.start()  # type: ignore[misc]
        assert daemon.stop() == 0
        assert TOKEN not in daemon.log()


@pytest.mark.parametrize("path", ["/", "/metrics", "/status"])
def test_what_is_not_declared_open_asks_for_the_token(daemon: SecureDaemon, path: str) -> None:
    assert daemon.url.startswith("https://")
    assert daemon.get(path)[0] == 200
    for wrong in ("", "wrong", TOKEN[:-1], TOKEN + "x", TOKEN.upper()):
        code, said = daemon.get(path, token=wrong)
        assert code == 401
        assert "the token is missing or wrong" in said
        assert "small" not in said
        assert TOKEN not in said


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_what_is_open_needs_no_token(daemon: SecureDaemon, path: str) -> None:
    assert daemon.get(path, token="")[0] == 200


def test_commands_need_the_token_whatever_is_open(daemon: SecureDaemon) -> None:
    with httpx.Client(verify=daemon.context, trust_env=False) as client:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
            answer = client.post(daemon.url + "/control/stop", headers=headers)
            assert answer.status_code == 401
    assert daemon.status()["service"]["state"] == "running"


def test_without_tls_nobody_is_answered(daemon: SecureDaemon) -> None:
    port = int(daemon.url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
        plain.sendall(b"GET /livez HTTP/1.1\r\nHost: insitu\r\n\r\n")
        said = b""
        try:
            while data := plain.recv(4096):
                said += data
        except ConnectionResetError:
            pass
    assert b"alive" not in said
    assert daemon.get("/livez")[0] == 200


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_old_versions_of_tls_are_refused(daemon: SecureDaemon, version: ssl.TLSVersion) -> None:
    port = int(daemon.url.rsplit(":", 1)[1])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        pytest.raises(ssl.SSLError),
    ):
        context.wrap_socket(plain)


def insitu(daemon: Daemon, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "insitu_service.cli", *words],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path), **environment},
        cwd=daemon.directory,
    )


def test_the_command_line_shows_the_token_and_trusts_what_it_is_told(
    daemon: SecureDaemon,
) -> None:
    reach = ("--url", daemon.url, "--ca-file", "authority.pem")
    done = insitu(daemon, "status", "--json", *reach, "--token-file", "token")
    assert done.returncode == exit_codes.OK, done.stderr
    assert json.loads(done.stdout)["service"]["name"] == "small"
    done = insitu(
        daemon, "evaluate", INSITU_URL=daemon.url, INSITU_CA_FILE="authority.pem",
        INSITU_TOKEN=TOKEN,
    )  # fmt: skip
    assert done.returncode == exit_codes.OK, done.stderr
    done = insitu(daemon, "checkpoint", *reach)
    assert done.returncode == exit_codes.UNREACHABLE
    assert "the token is missing or wrong" in done.stderr
    done = insitu(daemon, "status", "--url", daemon.url, "--token-file", "token")
    assert done.returncode == exit_codes.UNREACHABLE
    assert "certificate verify failed" in done.stderr
    done = insitu(daemon, "status", *reach[:2], "--ca-file", "token")
    assert done.returncode == exit_codes.USAGE
    assert "a file of certificates in PEM" in done.stderr
    assert TOKEN not in done.stderr


def test_the_token_does_not_follow_a_redirection() -> None:
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def serve() -> None:
            for _ in range(2):
                peer, _ = listener.accept()
                with peer:
                    asked.append(peer.recv(65536))
                    peer.sendall(
                        b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nConnection: close\r\n"
                        b"Location: http://127.0.0.1:%d/elsewhere\r\n\r\n" % port
                    )

        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(UnreachableError, match="302"):
            ServiceClient(f"http://127.0.0.1:{port}", TOKEN).status()
    assert len(asked) == 1


def test_a_new_certificate_is_taken_on_sighup(daemon: SecureDaemon, authority: trustme.CA) -> None:
    import signal

    def serial() -> object:
        port = int(daemon.url.rsplit(":", 1)[1])
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
            daemon.context.wrap_socket(plain, server_hostname="localhost") as secure,
        ):
            certificate = secure.getpeercert()
            assert certificate is not None
            return certificate["serialNumber"]

    before = serial()
    certify(authority, daemon.directory)
    daemon.signal(signal.SIGHUP)
    wait_for(lambda: serial() != before, "the new certificate")
    (daemon.directory / "key.pem").write_text("no key")
    daemon.signal(signal.SIGHUP)
    wait_for(lambda: "the old one stays" in daemon.log(), "its refusal")
    assert daemon.get("/livez")[0] == 200
    certify(authority, daemon.directory)


def test_no_connection_breaks_while_certificates_change(
    authority: trustme.CA, tmp_path: Path
) -> None:
    def files(number: int) -> Certificate:
        directory = tmp_path / str(number)
        directory.mkdir()
        made = certify(authority, directory)
        return Certificate(Path(made["certificate_file"]), Path(made["key_file"]))

    made, current = [files(number) for number in range(2)], tmp_path / "current"
    current.symlink_to(made[0].key_file.parent)
    linked = Certificate(current / "certificate.pem", current / "key.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    renewing = threading.Event()

    async def app(scope: object, receive: object, send: object) -> None:
        raise AssertionError("nobody asks")

    server = serve_http(app, "127.0.0.1", 0, linked)

    def renew() -> None:
        number = 0
        while not renewing.is_set():
            number += 1
            (tmp_path / "next").symlink_to(made[number % 2].key_file.parent)
            (tmp_path / "next").rename(current)
            server.renew_certificate()

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        seen = set()
        for _ in range(300):
            with (
                socket.create_connection(("127.0.0.1", server.port), timeout=30) as plain,
                context.wrap_socket(plain, server_hostname="localhost") as secure,
            ):
                certificate = secure.getpeercert()
                assert certificate is not None
                seen.add(certificate["serialNumber"])
        assert len(seen) == 2
    finally:
        renewing.set()
        thread.join()
        server.close()
