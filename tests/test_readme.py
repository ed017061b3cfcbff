"""The README's quick start does what it says, word for word, with real processes."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def marked(marker: str) -> str:
    """The code block that follows `<!-- marker -->`."""
    (code,) = re.findall(rf"<!-- {re.escape(marker)} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    return str(code)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture
def ports() -> dict[str, str]:
    """The README's ports -> free ones, so that the test minds nobody's service."""
    return {"5555": str(free_port()), "9100": str(free_port())}


def test_quick_start(tmp_path: Path, ports: dict[str, str]) -> None:
    def local(text: str) -> str:
        return re.sub(r"\b(5555|9100)\b", lambda match: ports[match[0]], text)

    for name in ("run.yaml", "simulation.py"):
        (tmp_path / name).write_text(local(marked(f"file: {name}")))
    commands = local(marked("commands")).replace(". .venv/bin/activate\n", "")
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("INSITU")},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    # A person looks whether the service is up before the drain; the shell waits for its end.
    script = f"set -eu\ntrap 'kill $! 2>/dev/null || true' EXIT\n{commands}\nwait $!\n"
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "run.yaml is valid" in done.stdout
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert results[0]["pending_samples"] == 0
    assert results[0]["step"] == 320 // 16
    assert "320 received" in done.stdout
    assert list((tmp_path / "checkpoints").glob("checkpoint-*"))


def test_own_simulation_is_connected_in_ten_lines() -> None:
    lines = [line for line in marked("file: simulation.py").splitlines() if line.strip()]
    assert len(lines) <= 10


def test_every_path_of_the_map_exists() -> None:
    section = README.split("## A map of the files")[1]
    for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE):
        for path in re.findall(r"`([^`]+)`", row):
            assert (ROOT / path).exists(), path


def test_every_page_and_command_that_is_named_exists() -> None:
    for page in re.findall(r"insitu/docs/[\w.]+\.md", README):
        assert (ROOT / page).exists(), page
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"\bmake (\w+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
